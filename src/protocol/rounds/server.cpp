#include "espalier/protocol/rounds/server.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>

#include "espalier/base/kill_point.h"
#include "espalier/base/log.h"
#include "espalier/base/stop.h"
#include "espalier/base/wide.h"

namespace espalier::rounds {
namespace {

// Periods of absence after which a run that nobody can work in is given up.
constexpr std::int64_t kMostWaits = 100000;
// Times in a row that everybody at work may fail.
constexpr std::int64_t kMostFailedWindows = 100;
// What a checkpoint at a stop waits for its norm statistics: after SIGTERM a rank has a second.
constexpr double kPatienceAtStop_s = 0.3;

/// True if every float is finite: an exponent of all ones is infinity or not a number.
ESPALIER_WIDE bool all_finite(const Bytes& bytes) {
  constexpr std::uint32_t kExponent = 0x7f800000u;
  // Parts of fixed size, because the compiler vectorises those at every optimisation level.
  constexpr std::size_t kPart = 64;
  std::array<std::uint32_t, kPart> bad{};
  const std::size_t count = bytes.size() / sizeof(float);
  for (std::size_t i = 0; i < count; i += kPart) {
    std::array<std::uint32_t, kPart> bits{};
    std::memcpy(bits.data(), bytes.data() + i * sizeof(float),
                std::min(kPart, count - i) * sizeof(float));
    for (std::size_t j = 0; j < kPart; ++j) {
      bad[j] |= static_cast<std::uint32_t>((bits[j] & kExponent) == kExponent);
    }
  }
  return std::ranges::all_of(bad, [](std::uint32_t b) { return b == 0; });
}

}  // namespace

std::int64_t answer_bytes() {
  static const auto size = static_cast<std::int64_t>(ClientResult{}.encode().size());
  return size;
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void declare_server_options(OptionTable& table) {
  table.add({"run.target_accuracy", OptionType::real, "0",
             "stop once the global model's top-1 reaches it; 0 = no such stop", "", 0, 1,
             OnResume::may_change});
  table.add({"run.virtual_limit", OptionType::real, "0",
             "stop at the first merge at or after this virtual time; 0 = no such stop", "s", 0,
             1e12, OnResume::may_change});
  table.add({"checkpoint.every", OptionType::integer, "10",
             "a checkpoint after so many rounds, beside that at the end; 0 = only at the end",
             "rounds", 0, 1e9, OnResume::may_change});
}

void set_identity(Flight& flight, const SentTask& sent) {
  flight.number = sent.task.task;
  flight.endpoint = sent.task.client;
  flight.is_answered = !sent.fault.crashes && !sent.fault.vanishes;
  flight.server_flops = kFlopsPerMergedValue * sent.buffer_layout->count(Kind::trainable);
}

ServerSettings server_settings(const Config& config, const Experiment& experiment) {
  const Fleet& fleet = *experiment.fleet;
  ServerSettings s{.window = window_settings(config, fleet, config.integer("clients.per_round")),
                   .sampler = Sampler(config, experiment),
                   .faults = Faults(config),
                   .availability = Availability(config, fleet),
                   .clock = clock_settings(config, fleet),
                   .evaluation = evaluation_plan(config, experiment),
                   .evaluate_every = config.integer("record.evaluate_every"),
                   .evaluate_first = config.boolean("record.evaluate_first"),
                   .checkpoint_every = config.integer("checkpoint.every"),
                   .target_accuracy = {},
                   .virtual_limit = {}};
  if (const double target = config.real("run.target_accuracy"); target > 0) {
    if (experiment.model.shape.next_token) {
      throw InputError(
          "run.target_accuracy is for models that classify; a language model has none: leave it "
          "out, or set run.rounds or run.virtual_limit");
    }
    s.target_accuracy = target;
  }
  if (const double limit = config.real("run.virtual_limit"); limit > 0) {
    s.virtual_limit = std::llround(limit * 1e9);
  }
  return s;
}

void refuse_endless_tasks(const Experiment& experiment, const LocalObjective& objective,
                          const ServerSettings& settings) {
  const auto full = Submodel::full(*experiment.model.layout);
  const auto dense = experiment.plans->buffer_layout(full, Packing::dense);
  const std::int64_t bytes = payload_bytes(*dense);
  ServerResources server = settings.clock.server;
  server.down.take(0, bytes);
  server.up.take(0, bytes);
  server.processor.take(0, kFlopsPerMergedValue * dense->count(Kind::trainable));
  const Fleet& fleet = *experiment.fleet;
  std::set<const DeviceClass*> seen;
  for (std::int64_t client = 0; client < fleet.size(); ++client) {
    const DeviceClass& device = fleet.device(client);
    if (!seen.insert(&device).second) continue;
    transfer_time(device.down_mbps, device.latency_ms, bytes);
    transfer_time(device.up_mbps, device.latency_ms, bytes);
    if (!experiment.partition) continue;
    const std::int64_t batch = part_size(experiment.train, experiment.batch_of(client));
    const TrainingCost cost = task_cost(experiment, objective, full, batch);
    const Steps steps[] = {{cost, experiment.workload_of(client).steps}};
    compute_time(device, steps);
  }
}

RoundsServer::RoundsServer(const Experiment& experiment, ServerSettings settings, ServerRules rules,
                           Pool& pool, RunFile& records, Parameters model,
                           const RealTime* real_time)
    : experiment_(experiment),
      rules_(std::move(rules)),
      pool_(pool),
      records_(records),
      evaluator_(experiment, settings.evaluation, pool),
      model_(std::move(model)),
      window_(settings.window),
      sampler_(std::move(settings.sampler)),
      faults_(std::move(settings.faults)),
      availability_(std::move(settings.availability)),
      evaluate_every_(settings.evaluate_every),
      evaluate_first_(settings.evaluate_first),
      checkpoint_every_(settings.checkpoint_every),
      target_accuracy_(settings.target_accuracy),
      virtual_limit_(settings.virtual_limit),
      clock_(make_clock(settings.clock, pool, real_time)) {
  clock_->settle = [this](Flight& flight, const Answer& answer) {
    const ClientResult result = arrival_of(answer).result;
    if (result.found.empty()) return;  // it failed
    charge(out_.at(flight.number), Submodel::decode(*experiment_.model.layout, result.found),
           flight);
  };
  tasks_of_.assign(static_cast<std::size_t>(experiment.fleet->size()), 0);
  for (std::int64_t client = 0; client < experiment.fleet->size(); ++client) {
    idle_.insert(idle_.end(), client);
  }
}

RunSummary RoundsServer::run() {
  wall_start_ = wall_seconds() - elapsed_before_s_;
  clock_->start(now_);
  if (is_restored_) {
    for (auto& [sent, flight] : std::exchange(in_flight_, {})) {
      clock_->send_again(flight, client_job(sent.task, sent.payload));
      out_.emplace(flight.number, std::move(sent));
    }
    if (tasks_due_ && !reached_a_stop()) top_up();  // of a run that now is to be longer
  } else {
    window_.open(now_);
    if (evaluate_first_) evaluator_.start(version_, now_, model_);
    if (evaluate_first_ && target_accuracy_) wait_for_evaluations();
    if (!reached_a_stop()) top_up();
  }
  while (true) {
    summary_.stopped = stop_request();
    if (summary_.stopped) break;
    try {
      save_if_due();
      if (reached_a_stop()) {
        finish_evaluations();
        break;
      }
      advance();
    } catch (const Pool::Interrupted&) {
      pool_.interrupt_when({});  // the next turn sees why
    }
  }
  if (summary_.stopped) bring_statistics(kPatienceAtStop_s);
  if (on_checkpoint) on_checkpoint(version_);
  if (!summary_.stopped) record_unfinished();
  records_.flush();
  summary_.rounds = version_;
  summary_.version = version_;
  summary_.time = now_;
  summary_.last = last_evaluation_;
  return summary_;
}

/// One event: an answer, the end of a window, or somebody's return. Between events the state is
/// whole.
void RoundsServer::advance() {
  const auto closes = window_.closes_at();
  if (clock_->out().empty()) {
    if (window_.held() > 0) {
      close_window();
    } else {
      wait_for_client();
    }
  } else {
    std::optional<Clock::Event> event;
    heed_stops([&] { event = clock_->next(closes); });
    if (event) {
      deliver(std::move(*event));
    } else {
      now_ = std::max(now_, *closes);
      close_window();
    }
  }
  take_evaluations();
}

/// A wait that is given up (Pool::Interrupted) once a stop is requested.
void RoundsServer::heed_stops(const std::function<void()>& wait) {
  pool_.interrupt_when([] { return stop_request().has_value(); });
  wait();
  pool_.interrupt_when({});
}

void RoundsServer::wait_for_evaluations() {
  pool_.wait_until([this] {
    take_evaluations();
    return !evaluator_.pending();
  });
}

/// After the last round.
void RoundsServer::finish_evaluations() {
  // Of a run that was to be longer when its last round ended.
  const bool known = last_evaluation_ && last_evaluation_->version == version_;
  if (!known && !evaluator_.pending(version_)) {
    evaluator_.start(version_, window_.opened(), model_);
  }
  heed_stops([this] { wait_for_evaluations(); });
  bring_statistics();
}

/// Waits until the norm statistics of this version are known, for at most the given time if any,
/// and puts them into the model.
void RoundsServer::bring_statistics(std::optional<double> patience_s) {
  if (!lacks_statistics(model_)) return;
  evaluator_.calibrate(version_, model_);
  const auto is_known = [this] { return evaluator_.calibrated(version_) != nullptr; };
  if (patience_s) {
    const double until = wall_seconds() + *patience_s;
    const auto left_s = [&] { return std::max(0.0, until - wall_seconds()); };
    pool_.wait_until([&] { return is_known() || left_s() == 0; },
                     [&] { return std::chrono::nanoseconds(std::llround(left_s() * 1e9)); });
  } else {
    heed_stops([&] { pool_.wait_until(is_known); });
  }
  if (const Parameters* known = evaluator_.calibrated(version_)) copy_statistics(*known, model_);
}

bool RoundsServer::checkpoint_is_due() const {
  return checkpoint_every_ > 0 && version_ % checkpoint_every_ == 0 && version_ != saved_version_ &&
         version_ < experiment_.rounds;
}

void RoundsServer::save_if_due() {
  if (!checkpoint_is_due()) return;
  const double start = wall_seconds();
  bring_statistics();
  saved_version_ = version_;
  if (on_checkpoint) on_checkpoint(version_);
  saving_s_ += wall_seconds() - start;
}

/// After a window without a single update: ends a run that cannot go on.
void RoundsServer::refuse_failed_window() {
  const auto rejected = [](const Delivered& d) { return d.outcome == Outcome::rejected; };
  const bool on_purpose = std::ranges::all_of(
      delivered_, [&](const Delivered& d) { return !rejected(d) || d.sent.fault.not_finite; });
  const bool too_often = ++failed_windows_ > kMostFailedWindows;
  if (std::ranges::any_of(delivered_, rejected) && (too_often || !on_purpose)) {
    throw NotFiniteError(
        "every update of a window was rejected because it is not finite; lower train.lr or set "
        "train.clip");
  }
  if (too_often) {
    throw NoClientError(formatted(
        "no client can answer: {} times in a row everybody who was given work failed; see the "
        "outcomes in /tasks",
        kMostFailedWindows));
  }
}

/// Every task of the window failed: those clients may be sent something smaller, or others in their
/// place, now or when somebody comes back.
void RoundsServer::wait_for_client() {
  refuse_failed_window();
  release_waiting();
  top_up();
  for (std::int64_t waits = 0; clock_->out().empty() && waits < kMostWaits; ++waits) {
    const auto next = next_return();
    if (!next) break;
    now_ = *next;
    clock_->pass(now_);
    top_up();
  }
  if (clock_->out().empty()) {
    throw NoClientError(
        "no client can answer: none that is available has the memory for its submodel; give the "
        "devices more memory_mb or a higher availability, or choose smaller widths");
  }
}

bool RoundsServer::reached_a_stop() const {
  if (version_ >= experiment_.rounds) return true;
  if (virtual_limit_ && version_ > 0 && now_ >= *virtual_limit_) return true;
  return target_accuracy_ && last_evaluation_ && last_evaluation_->top1 >= *target_accuracy_;
}

const TrainingCost& RoundsServer::cost_of(Phase phase, const Submodel& submodel,
                                          std::int64_t batch) {
  auto [place, added] = costs_.try_emplace({phase, submodel.hash(), batch});
  if (added) {
    place->second = phase == Phase::search
                        ? search_cost(experiment_, *rules_.search, submodel, batch)
                        : task_cost(experiment_, *rules_.objective, submodel, batch);
  }
  return place->second;
}

SharedBytes RoundsServer::payload_for(const Submodel& submodel, const BufferLayout& dense) {
  auto& [known, payload] = payloads_[submodel.hash()];
  if (payload && known == submodel) return payload;
  known = submodel;
  payload = pack_payload(*experiment_.plans, model_, dense);
  return payload;
}

void RoundsServer::top_up() {
  tasks_due_ = false;
  const double start = wall_seconds();
  // Clients whose update waits for the merge still belong to the round.
  const auto busy = static_cast<std::int64_t>(clock_->out().size()) +
                    std::ranges::count_if(delivered_, [](const Delivered& d) { return d.waiting; });
  const std::int64_t want =
      sampler_.at_once() == 0 ? static_cast<std::int64_t>(idle_.size()) : sampler_.at_once() - busy;
  const std::int64_t furthest = furthest_task();
  const auto chosen = sampler_.choose(want, idle_, [&](std::int64_t client) {
    return next_task_of(client) <= furthest && is_available(client) && has_memory(client);
  });
  for (const std::int64_t client : chosen) {
    idle_.erase(client);
    send(client);
  }
  busy_s_ += wall_seconds() - start;
}

/// Number of the last task that a client may start now: with window.max_spread, that many beyond
/// the slowest client's present one.
std::int64_t RoundsServer::furthest_task() const {
  const auto& spread = window_.settings().max_spread;
  if (!spread) return std::numeric_limits<std::int64_t>::max();
  std::int64_t slowest = std::numeric_limits<std::int64_t>::max();
  for (const auto& [number, sent] : out_) slowest = std::min(slowest, sent.task.nth_task);
  for (const std::int64_t client : idle_) {
    if (has_memory(client)) slowest = std::min(slowest, next_task_of(client));
  }
  return slowest > std::numeric_limits<std::int64_t>::max() - *spread ? slowest : slowest + *spread;
}

bool RoundsServer::is_available(std::int64_t client) const {
  const auto away = away_until_.find(client);
  return (away == away_until_.end() || away->second <= now_) &&
         availability_.available(client, now_);
}

/// The next time at which somebody may come back.
std::optional<Nanoseconds> RoundsServer::next_return() const {
  std::optional<Nanoseconds> next = availability_.next_change(now_);
  for (const auto& [client, until] : away_until_) {
    if (until > now_ && (!next || until < *next)) next = until;
  }
  return next;
}

/// Whether the client's next submodel is smaller than what it last ran out of memory with.
bool RoundsServer::has_memory(std::int64_t client) const {
  const auto refused = too_large_.find(client);
  return refused == too_large_.end() ||
         !refused->second.inside(rules_.submodel->choose(experiment_, moment_of(client)).submodel);
}

void RoundsServer::send(std::int64_t client) {
  const SendMoment moment = moment_of(client);
  Assignment assigned = rules_.submodel->choose(experiment_, moment);
  const bool searches = assigned.search > 0;
  SentTask sent;
  sent.buffer_layout = experiment_.plans->buffer_layout(assigned.submodel, Packing::dense);
  sent.payload = payload_for(assigned.submodel, *sent.buffer_layout);
  sent.share = assigned.share;
  sent.fault = faults_.fault(client, moment.nth_task);
  sent.task = {next_task_++,
               client,
               moment.nth_task,
               version_,
               0,
               sent.fault.twice,
               sent.fault.not_finite,
               std::move(assigned.submodel),
               {},
               assigned.search};
  Flight flight;
  set_identity(flight, sent);
  flight.is_bounded = searches && !rules_.search->size_is_known();
  flight.bytes_down = std::ssize(*sent.payload) + std::ssize(sent.task.encode());
  const auto state = states_.find(client);
  if (state != states_.end()) sent.task.state = state->second;
  flight.sent = now_;
  const DeviceClass device = experiment_.fleet->device_at(client, version_);
  flight.download = transfer_time(device.down_mbps, device.latency_ms, flight.bytes_down);
  const Submodel trained =
      searches ? rules_.search->expected(experiment_.model, sent.task.submodel, sent.task.search)
               : sent.task.submodel;
  charge(sent, trained, flight);
  ++tasks_of_[static_cast<std::size_t>(client)];
  clock_->send(flight, client_job(sent.task, sent.payload));
  out_.emplace(flight.number, std::move(sent));
}

/// What the task takes after its download, if its client trains `trained`.
void RoundsServer::charge(const SentTask& sent, const Submodel& trained, Flight& flight) {
  const std::int64_t client = sent.task.client;
  std::vector<Steps> steps;
  const auto add_passes = [&](Phase phase, const Submodel& submodel, Workload::Passes passes) {
    steps.push_back({cost_of(phase, submodel, passes.size), passes.count});
  };
  flight.bytes_up =
      answer_bytes() + payload_bytes(*experiment_.plans->buffer_layout(trained, Packing::dense));
  const bool searches = sent.task.search > 0;
  if (searches) {
    for (const auto& passes : rules_.search->workload(experiment_, client).passes) {
      add_passes(Phase::search, sent.task.submodel, passes);
    }
    flight.bytes_up += rules_.search->answer_bytes(experiment_.model, sent.task.submodel);
  }
  const Workload batches =
      searches ? rules_.search->training(experiment_, client) : experiment_.workload_of(client);
  for (const SubmodelPasses& made :
       rules_.objective->passes(experiment_, sent.task, trained, batches)) {
    add_passes(Phase::training, made.submodel, made.passes);
  }
  flight.flops = 0;
  for (const Steps& s : steps) flight.flops += s.count * s.cost.step_flops;
  const DeviceClass device = experiment_.fleet->device_at(client, sent.task.base_version);
  flight.compute = compute_time(device, steps, sent.fault.slowdown);
  flight.upload = transfer_time(device.up_mbps, device.latency_ms, flight.bytes_up);
}

/// From here on the task, and what it started from, are of what its client found.
void RoundsServer::adopt_submodel(Delivered& delivered) {
  SentTask& sent = delivered.sent;
  ClientResult& result = delivered.arrival.result;
  Submodel found = Submodel::decode(*experiment_.model.layout, result.found);
  const auto dense = experiment_.plans->buffer_layout(found, Packing::dense);
  auto start = std::make_shared<Bytes>(static_cast<std::size_t>(payload_bytes(*dense)));
  experiment_.plans->plan(*sent.buffer_layout, *dense, nullptr, kTrained)
      ->copy(reinterpret_cast<const float*>(sent.payload->data()),
             reinterpret_cast<float*>(start->data()));
  sent.payload = std::move(start);
  sent.buffer_layout = dense;
  sent.task.submodel = std::move(found);
  result.found.clear();
}

void RoundsServer::deliver(Clock::Event event) {
  const double start = wall_seconds();
  now_ = event.flight.finish;
  Delivered d;
  d.flight = event.flight;
  d.sent = std::move(out_.extract(d.flight.number).mapped());
  if (event.answer) d.arrival = arrival_of(*event.answer);
  const ClientResult& result = d.arrival.result;
  d.staleness = version_ - d.sent.task.base_version;
  const WindowSettings& window = window_.settings();
  if (d.sent.fault.crashes) {
    d.outcome = Outcome::crashed;
  } else if (d.sent.fault.vanishes) {
    d.outcome = Outcome::unavailable;
    const auto length = static_cast<double>(d.flight.finish - d.flight.sent);
    away_until_[d.sent.task.client] = now_ + std::llround(faults_.vanish_tasks() * length);
  } else if (result.out_of_memory) {
    d.outcome = Outcome::out_of_memory;
    too_large_[d.sent.task.client] = d.sent.task.submodel;
  } else if (!all_finite(*d.arrival.values)) {
    d.outcome = Outcome::rejected;
  } else if (window.stale == Stale::drop && window.max_staleness &&
             d.staleness > *window.max_staleness) {
    d.outcome = Outcome::dropped_stale;
  } else {
    d.outcome = Outcome::merged;
  }
  // A state that belongs to values which are not finite would spoil all later tasks.
  if (!result.state.empty() && d.outcome != Outcome::rejected) {
    states_[d.sent.task.client] = result.state;
  }
  if (!result.found.empty()) {
    adopt_submodel(d);
    if (d.outcome != Outcome::rejected) {
      const ClientTask& task = d.sent.task;
      rules_.submodel->observe(experiment_, {task.client, task.nth_task, task.base_version},
                               task.submodel);
    }
  }
  const bool counts = d.outcome == Outcome::merged;
  const bool too_stale = window.max_staleness && d.staleness > *window.max_staleness;
  const bool on_arrival =
      window.release == Release::arrival || (window.stale == Stale::resend && too_stale);
  const std::int64_t client = d.sent.task.client;
  d.waiting = !on_arrival;
  tell_failure(d);
  delivered_.push_back(std::move(d));
  const bool closes = counts && window_.observe(now_);
  busy_s_ += wall_seconds() - start;
  if (on_arrival) release(client);
  if (closes) {
    close_window();
  } else if (on_arrival) {
    top_up();
  }
}

void RoundsServer::release_waiting() {
  for (Delivered& d : delivered_) {
    if (d.waiting) release(d.sent.task.client);
    d.waiting = false;
  }
}

void RoundsServer::close_window() {
  const double start = wall_seconds();
  std::vector<Update> updates;
  std::vector<Delivered*> sources;
  for (Delivered& d : delivered_) {
    if (d.outcome == Outcome::merged) sources.push_back(&d);
  }
  std::sort(sources.begin(), sources.end(), [](const Delivered* a, const Delivered* b) {
    return std::make_pair(a->sent.task.client, a->sent.task.task) <
           std::make_pair(b->sent.task.client, b->sent.task.task);
  });
  for (const Delivered* d : sources) {
    updates.push_back(
        {d->sent.task.task, d->sent.task.client, d->sent.task.base_version, d->staleness,
         experiment_.samples_of(d->sent.task.client), d->arrival.result.steps,
         learning_rate(experiment_.train, d->sent.task.base_version), d->sent.buffer_layout,
         d->arrival.values, d->sent.payload, d->sent.share, 0});
  }
  failed_windows_ = 0;
  rules_.merge->merge(experiment_, model_, updates);
  forget_statistics(model_);
  kill_point("round.merged");
  for (std::size_t i = 0; i < updates.size(); ++i) sources[i]->weight = updates[i].weight;
  ++version_;
  payloads_.clear();
  busy_s_ += wall_seconds() - start;
  release_waiting();
  const bool last = version_ >= experiment_.rounds || (virtual_limit_ && now_ >= *virtual_limit_);
  const bool due = version_ % evaluate_every_ == 0;
  const bool wait_first = target_accuracy_ && due;  // the next tasks may not be wanted
  tasks_due_ = true;
  if (!last && !wait_first) top_up();  // records can wait, the ranks need not
  record_round(updates);
  kill_point("round.recorded");
  delivered_.clear();
  window_.open(now_);
  if (checkpoint_is_due()) evaluator_.calibrate(version_, model_);
  if (due || last) evaluator_.start(version_, now_, model_);
  if (!wait_first) return;
  wait_for_evaluations();
  if (!reached_a_stop()) top_up();
}

void RoundsServer::take_evaluations() {
  pool_.poll();
  for (auto found = evaluator_.next(); !found.empty(); found = evaluator_.next()) {
    const Evaluation& head = found.front();
    if (!std::isfinite(head.loss)) {
      throw NotFiniteError(formatted(
          "the loss of version {} is not finite; lower train.lr or set train.clip", head.version));
    }
    for (const Evaluation& evaluation : found) {
      Row row(evaluations_schema());
      row.set("version", evaluation.version)
          .set("virtual_time_s", seconds(evaluation.time))
          .set("set", evaluation.set)
          .set("loss", evaluation.loss)
          .set("top1", evaluation.top1)
          .set("top5", evaluation.top5)
          .set("perplexity", evaluation.perplexity);
      records_.append(row);
    }
    last_evaluation_ = head;
    if (on_evaluation) on_evaluation(head);
  }
}

}  // namespace espalier::rounds
