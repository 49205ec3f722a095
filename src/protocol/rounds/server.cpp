#include "espalier/protocol/rounds/server.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/kill_point.h"
#include "espalier/base/log.h"
#include "espalier/base/wide_sums.h"
#include "espalier/device/emulated_time.h"
#include "espalier/protocol/rounds/personal.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

// Maximum number of consecutive waits for an absent client; after them the run ends.
constexpr std::int64_t kMostWaits = 100000;
// Maximum number of consecutive windows in which every task fails.
constexpr std::int64_t kMostFailedWindows = 100;

Outcome outcome_of(const Delivered& d, const WindowSettings& window) {
  if (d.sent.fault.crashes) return Outcome::crashed;
  if (d.sent.fault.vanishes) return Outcome::unavailable;
  if (d.arrival.result.out_of_memory) return Outcome::out_of_memory;
  if (!all_finite(floats_of(*d.arrival.values))) return Outcome::rejected;
  if (window.stale == Stale::drop && window.is_too_stale(d.staleness)) {
    return Outcome::dropped_stale;
  }
  return Outcome::merged;
}

}  // namespace

ServerSettings server_settings(const Config& config, const Experiment& experiment) {
  const Fleet& fleet = *experiment.fleet;
  return {.window = window_settings(config, fleet, config.integer("clients.per_round")),
          .sampler = Sampler(config, experiment),
          .faults = Faults(config),
          .availability = Availability(config, fleet),
          .clock = clock_settings(config, fleet),
          .record_agreement = config.boolean("record.agreement")};
}

RoundsServer::RoundsServer(const Experiment& experiment, ServerSettings settings, ServerRules rules,
                           Parameters model, Run& run)
    : experiment_(experiment),
      rules_(std::move(rules)),
      run_(run),
      model_(std::move(model)),
      window_(settings.window),
      faults_(std::move(settings.faults)),
      clients_(experiment, *rules_.submodel, std::move(settings.sampler),
               std::move(settings.availability), settings.window.max_spread),
      costs_(experiment, rules_.tasks),
      payloads_(*experiment.plans, rules_.tasks.objective->peers()),
      recorder_(experiment, rules_, settings.record_agreement, run),
      clock_(make_clock(settings.clock, run.pool(), run.real_time())) {
  clock_->settle = [this](Flight& flight, const Answer& answer) {
    costs_.settle(out_.at(flight.number), arrival_of(answer).result, flight);
  };
}

void RoundsServer::begin() {
  clock_->start(state_.now);
  for (const Flight& flight : std::exchange(to_resend_, {})) {
    const SentTask& sent = out_.at(flight.number);
    clock_->send_again(flight, client_job(sent.task, sent.payload));
  }
  // After a resume tasks are due if the run had ended here and now has more rounds.
  if (state_.tasks_due && !run_.reached_a_stop(state_.version, state_.now)) top_up();
}

/// One event: an answer, the end of a window, or a client's return.
void RoundsServer::advance() {
  const auto closes = window_.closes_at();
  if (clock_->out().empty()) {
    if (window_.held() > 0) {
      close_window();
    } else {
      wait_for_client();
    }
    return;
  }
  std::optional<Clock::Event> event;
  run_.heed_stops([&] { event = clock_->next(closes); });
  if (event) {
    deliver(std::move(*event));
  } else {
    state_.now = std::max(state_.now, *closes);
    close_window();
  }
}

void RoundsServer::end() {
  // Answers after the last merge, then outstanding tasks: each task has exactly one row.
  for (const Delivered& d : delivered_) {
    recorder_.record_unfinished(d.sent, d.flight, state_.version);
  }
  for (const auto& [key, flight] : clock_->out()) {
    recorder_.record_unfinished(out_.at(flight.number), flight, state_.version);
  }
}

// Sending ---------------------------------------------------------------------------------------

Clients::Moment RoundsServer::moment() const {
  Clients::Moment moment{state_.now, state_.version, state_.sent_tasks};
  // Clients whose update waits for the merge still belong to the round.
  moment.at_work =
      std::ssize(clock_->out()) + std::ranges::count_if(delivered_, &Delivered::is_waiting);
  if (!window_.settings().max_spread) return moment;
  for (const auto& [number, sent] : out_) {
    moment.slowest_out = std::min(moment.slowest_out, sent.task.nth_task);
  }
  return moment;
}

void RoundsServer::top_up() {
  state_.tasks_due = false;
  const Stopwatch busy = run_.busy();
  for (const std::int64_t client : clients_.take(moment())) send(client);
}

/// Whether the client's memory holds its task with the models of other clients: if not, it trains
/// without them.
bool RoundsServer::takes_peers(std::int64_t client, const Assignment& assigned) {
  return rules_.tasks.objective->peers() > 0 && costs_.fits(assigned, client);
}

void RoundsServer::send(std::int64_t client) {
  const std::int64_t nth_task = clients_.number_task(client);
  Assignment assigned =
      rules_.submodel->choose(experiment_, {client, nth_task, state_.version, state_.sent_tasks++});
  SentTask sent;
  if (takes_peers(client, assigned)) {
    sent.task.peers = payloads_.peers().models_for(client, assigned.submodel);
  }
  sent.buffer_layout = experiment_.plans->buffer_layout(assigned.submodel, Packing::shared);
  sent.payload =
      payloads_.payload(model_, rules_.merge->companion(), assigned.submodel, *sent.buffer_layout);
  sent.width = assigned.width;
  sent.name_bytes = assigned.name_bytes;
  sent.traffic = assigned.traffic;
  sent.fault = faults_.fault(client, nth_task);
  ClientTask& task = sent.task;
  task.client = client;
  task.nth_task = nth_task;
  task.base_version = state_.version;
  task.submodel = std::move(assigned.submodel);
  task.search = assigned.search;
  task.task = state_.next_task++;
  task.answers_twice = sent.fault.twice;
  task.not_finite = sent.fault.not_finite;
  sent.frozen_values = clients_.receive_frozen(client, task.submodel);
  const Flight flight = costs_.flight_of(sent, state_.now);
  task.state = clients_.state(client);
  if (task.state.empty()) task.state = first_personal_state(experiment_, model_);
  clock_->send(flight, client_job(task, sent.payload));
  out_.emplace(flight.number, std::move(sent));
}

// Answers ---------------------------------------------------------------------------------------

void RoundsServer::deliver(Clock::Event event) {
  const bool closes = handle(std::move(event));
  const Delivered& d = delivered_.back();
  if (!d.is_waiting) clients_.release(d.sent.task.client);
  if (closes) {
    close_window();
  } else if (!d.is_waiting) {
    top_up();
  }
}

/// Handles an answer or a failure. Returns whether the window closes.
bool RoundsServer::handle(Clock::Event event) {
  const Stopwatch busy = run_.busy();
  state_.now = event.flight.finish;
  Delivered d;
  d.flight = event.flight;
  d.sent = std::move(out_.extract(d.flight.number).mapped());
  if (event.answer) d.arrival = arrival_of(*event.answer);
  d.staleness = state_.version - d.sent.task.base_version;
  const WindowSettings& window = window_.settings();
  d.outcome = outcome_of(d, window);
  const std::int64_t client = d.sent.task.client;
  if (d.outcome == Outcome::unavailable) {
    const auto length = static_cast<double>(d.flight.finish - d.flight.sent);
    clients_.leave(client, later(state_.now, rounded(faults_.vanish_tasks() * length)));
  } else if (d.outcome == Outcome::out_of_memory) {
    clients_.ran_out_of_memory(client, d.sent.task.submodel);
  }
  // The state of a rejected update may hold values that are not finite, so it is not kept.
  const ClientResult& result = d.arrival.result;
  if (!result.state.empty() && d.outcome != Outcome::rejected) {
    clients_.keep_state(client, result.state);
  }
  if (!result.found.empty()) adopt_submodel(d);
  observe(d);
  recorder_.warn_of_failure(d);
  const bool on_arrival = window.release == Release::arrival ||
                          (window.stale == Stale::resend && window.is_too_stale(d.staleness));
  d.is_waiting = !on_arrival;
  const bool closes = d.outcome == Outcome::merged && window_.observe(state_.now);
  delivered_.push_back(std::move(d));
  return closes;
}

/// Replaces the task's submodel by the one that its client found, and the payload by its values of
/// that submodel.
void RoundsServer::adopt_submodel(Delivered& delivered) {
  SentTask& sent = delivered.sent;
  ClientResult& result = delivered.arrival.result;
  Submodel found = Submodel::decode(*experiment_.model.layout, result.found);
  const auto shared = experiment_.plans->buffer_layout(found, Packing::shared);
  sent.payload = narrowed(*experiment_.plans, *sent.payload, *sent.buffer_layout, *shared);
  sent.buffer_layout = shared;
  sent.task.submodel = std::move(found);
  result.found.clear();
  delivered.is_searched = true;
}

void RoundsServer::observe(const Delivered& d) {
  const ClientTask& task = d.sent.task;
  const ClientResult& result = d.arrival.result;
  rules_.submodel->observe(experiment_, {.client = task.client,
                                         .nth_task = task.nth_task,
                                         .base_version = task.base_version,
                                         .outcome = d.outcome,
                                         .submodel = task.submodel,
                                         .searched = d.is_searched,
                                         .sent = d.flight.sent,
                                         .download = d.flight.download,
                                         .compute = d.flight.compute,
                                         .upload = d.flight.upload,
                                         .finish = d.flight.finish,
                                         .train_loss = result.train_loss,
                                         .local = result.local});
}

// Windows ---------------------------------------------------------------------------------------

void RoundsServer::close_window() {
  std::vector<Update> updates = merge();
  const std::int64_t version = state_.version;
  release_waiting();
  state_.tasks_due = true;
  if (run_.may_send_on(version, state_.now)) top_up();  // before the records, so ranks do not wait
  recorder_.record({.version = version,
                    .opened = window_.opened(),
                    .closed = state_.now,
                    .delivered = delivered_,
                    .updates = updates,
                    .outstanding = earlier_flights()},
                   model_);
  kill_point("round.recorded");
  updates.clear();  // with delivered_ the last to hold the values, before the model is copied
  delivered_.clear();
  window_.open(state_.now);
  const bool continues = run_.made_version(version, state_.now, model_);
  if (continues && state_.tasks_due) top_up();
}

/// Makes the next version from the updates, in (client, task) order, and returns these.
std::vector<Update> RoundsServer::merge() {
  const Stopwatch busy = run_.busy();
  std::vector<Delivered*> sources;
  for (Delivered& d : delivered_) {
    if (d.outcome == Outcome::merged) sources.push_back(&d);
  }
  std::ranges::sort(sources, {}, [](const Delivered* d) {
    return std::make_pair(d->sent.task.client, d->sent.task.task);
  });
  std::vector<Update> updates;
  for (const Delivered* d : sources) {
    const ClientTask& task = d->sent.task;
    // Batches of a search do not train the weights.
    const std::int64_t search_steps =
        task.search > 0 ? rules_.tasks.search->workload(experiment_, task.client).steps : 0;
    updates.push_back({.task = task.task,
                       .client = task.client,
                       .base_version = task.base_version,
                       .staleness = d->staleness,
                       .samples = experiment_.samples_of(task.client),
                       .steps = d->arrival.result.steps - search_steps,
                       .lr = learning_rate(experiment_.train, task.base_version),
                       .buffer_layout = d->sent.buffer_layout,
                       .values = d->arrival.values,
                       .sent = d->sent.payload,
                       .width = d->sent.width});
  }
  rules_.merge->merge(experiment_, model_, updates);
  payloads_.peers().keep(updates);
  forget_statistics(model_);
  kill_point("round.merged");
  for (std::size_t i = 0; i < updates.size(); ++i) sources[i]->weight = updates[i].weight;
  ++state_.version;
  rules_.submodel->merged(experiment_, {state_.version, model_, updates});
  state_.sent_tasks = 0;
  state_.failed_windows = 0;
  payloads_.clear();
  return updates;
}

/// Flights of outstanding tasks of earlier versions.
std::vector<Flight> RoundsServer::earlier_flights() const {
  std::vector<Flight> flights;
  for (const auto& [key, flight] : clock_->out()) {
    if (out_.at(flight.number).task.base_version < state_.version) flights.push_back(flight);
  }
  return flights;
}

void RoundsServer::release_waiting() {
  for (Delivered& d : delivered_) {
    if (d.is_waiting) clients_.release(d.sent.task.client);
    d.is_waiting = false;
  }
}

/// Every task of the window failed: sends smaller submodels to these clients, or tasks to others,
/// now or when a client becomes available.
void RoundsServer::wait_for_client() {
  refuse_failed_window();
  release_waiting();
  top_up();
  for (std::int64_t waits = 0; clock_->out().empty() && waits < kMostWaits; ++waits) {
    const auto next = clients_.next_return(state_.now);
    if (!next || is_beyond_century(*next)) break;
    state_.now = *next;
    clock_->pass(state_.now);
    top_up();
  }
  if (clock_->out().empty()) {
    recorder_.record_failures(delivered_, state_.version);
    throw NoClientError("no client can answer: " + clients_.obstacle(moment()));
  }
}

/// After a window without an update: ends a run that cannot continue.
void RoundsServer::refuse_failed_window() {
  const auto rejected = [](const Delivered& d) { return d.outcome == Outcome::rejected; };
  const bool on_purpose = std::ranges::all_of(
      delivered_, [&](const Delivered& d) { return !rejected(d) || d.sent.fault.not_finite; });
  const bool too_often = ++state_.failed_windows > kMostFailedWindows;
  if (std::ranges::any_of(delivered_, rejected) && (too_often || !on_purpose)) {
    recorder_.record_failures(delivered_, state_.version);
    throw NotFiniteError(
        "every update of a window was rejected because it is not finite; lower train.lr or set "
        "train.clip");
  }
  if (too_often) {
    recorder_.record_failures(delivered_, state_.version);
    throw NoClientError(formatted(
        "no client can answer: in {} consecutive windows every task failed; see the outcomes in "
        "/tasks",
        kMostFailedWindows));
  }
}

}  // namespace espalier::rounds
