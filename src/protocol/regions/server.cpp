#include "espalier/protocol/regions/server.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/kill_point.h"
#include "espalier/config/choice.h"
#include "espalier/protocol/regions/tables.h"
#include "espalier/train/task_cost.h"

namespace espalier::regions {
namespace {

constexpr const char* kWeights[] = {"uniform", "samples", "tokens"};

const Purpose kFailingStep = register_purpose("regions.failing_step");
const Purpose kLost = register_purpose("faults.lost");

std::vector<DeviceClass> devices_of(const Fleet& fleet) {
  std::vector<DeviceClass> devices;
  for (std::int64_t region = 0; region < fleet.size(); ++region) {
    devices.push_back(fleet.device(region));
  }
  return devices;
}

/// Nanoseconds of the region's steps between two steps, on its own device.
Nanoseconds own_time(const Experiment& e, std::int64_t region, std::int64_t begin,
                     std::int64_t end) {
  const Submodel full = Submodel::full(*e.model.layout);
  std::vector<TrainingCost> costs;
  std::vector<std::int64_t> counts;
  for (const Workload::Passes& passes : passes_between(e, region, begin, end)) {
    costs.push_back(task_cost(e, LocalObjective(), full, passes.size));
    counts.push_back(passes.count);
  }
  std::vector<Steps> steps;
  for (std::size_t i = 0; i < costs.size(); ++i) steps.push_back({costs[i], counts[i]});
  return compute_time(e.fleet->device(region), steps);
}

/// Times of the slowest region's step and of one exchange of the largest fragment.
ExchangeTimes exchange_times(const Experiment& e, const ServerSettings& s) {
  std::int64_t bytes = 0;
  for (const Fragment& fragment : s.regions.fragments) {
    bytes = std::max(bytes, encoded_bytes(s.regions.codec, fragment.tensors));
  }
  const std::vector<DeviceClass> devices = devices_of(*e.fleet);
  Nanoseconds step = 0;
  Nanoseconds both_ways = 0;
  for (std::int64_t region = 0; region < e.fleet->size(); ++region) {
    step = std::max(step, own_time(e, region, 0, 1));
    const DeviceClass& d = devices[static_cast<std::size_t>(region)];
    both_ways = std::max(both_ways, transfer_time(d.up_mbps, d.latency_ms, bytes) +
                                        transfer_time(d.down_mbps, d.latency_ms, bytes));
  }
  return {seconds(step),
          seconds(s.topology == Topology::ring ? ring_time(devices, bytes) : both_ways)};
}

void refuse_unused_faults(const Config& config, const RegionSettings& settings) {
  for (const char* fault : {"faults.twice", "faults.not_finite"}) {
    if (config.real(fault) > 0) {
      throw InputError(formatted(
          "{} is for methods of rounds; regions have faults.crash, faults.vanish, faults.late and "
          "faults.lost",
          fault));
    }
  }
  if (!settings.gradients) return;
  for (const char* fault : {"faults.crash", "faults.vanish", "faults.lost"}) {
    if (config.real(fault) > 0) {
      throw InputError(formatted(
          "{} does not work with regions.exchange = gradients, because all replicas must stay "
          "equal: leave it out, or choose another method",
          fault));
    }
  }
}

void refuse_absent_devices(const Fleet& fleet) {
  for (std::int64_t region = 0; region < fleet.size(); ++region) {
    const DeviceClass& device = fleet.device(region);
    if (device.availability == 1) continue;
    throw InputError(
        formatted("device.{}.availability = {} is for methods of rounds; set faults.vanish to let "
                  "regions be away",
                  device.name, device.availability));
  }
}

void refuse_little_memory(const Experiment& e, const RegionSettings& settings) {
  for (std::int64_t region = 0; region < e.fleet->size(); ++region) {
    const DeviceClass& device = e.fleet->device(region);
    const std::int64_t cap = memory_bytes(device);
    const std::int64_t needed = region_bytes(e, settings, part_size(e.train, e.batch_of(region)));
    if (cap > 0 && needed > cap) {
      throw InputError(formatted(
          "region {} needs {:.3f} MB, but device.{}.memory_mb = {}: give it more, or train a "
          "smaller model or batch",
          region, static_cast<double>(needed) * 1e-6, device.name, device.memory_mb));
    }
  }
}

}  // namespace

void declare_server_options(OptionTable& table) {
  table.add_choice("regions.topology", "star",
                   "star: fragments pass the server's links; ring: the regions average them among "
                   "themselves (all-reduce)",
                   {"star", "ring"});
  table.add_choice(
      "regions.weights", "uniform",
      "weight of a region in the mean: equal, by its samples, or by the tokens that it "
      "trained since its last exchange of the fragment",
      {std::begin(kWeights), std::end(kWeights)});
  table.add({"regions.lock_step", OptionType::boolean, "false",
             "every step of every region takes as long as that of the slowest region"});
  table.add(
      {"faults.lost", OptionType::real, "0",
       "regions: fraction of messages that are lost: the merge goes without the region, which "
       "goes on with its own values",
       "", 0, 1});
}

ServerSettings server_settings(const Config& config, const Experiment& experiment) {
  ServerSettings s{.regions = region_settings(config, experiment),
                   .schedule = {},
                   .outer = outer_settings(config),
                   .faults = Faults(config),
                   .lost = config.real("faults.lost"),
                   .clock = clock_settings(config, *experiment.fleet)};
  if (config.text("regions.topology") == "ring") s.topology = Topology::ring;
  s.weights = choice<Weights>(config, "regions.weights", kWeights);
  s.lock_step = config.boolean("regions.lock_step");
  refuse_unused_faults(config, s.regions);
  refuse_absent_devices(*experiment.fleet);
  refuse_little_memory(experiment, s.regions);
  const ExchangeTimes times =
      experiment.partition ? exchange_times(experiment, s) : ExchangeTimes{};
  s.schedule = schedule_settings(config, std::ssize(s.regions.fragments), times);
  return s;
}

std::int64_t region_bytes(const Experiment& e, const RegionSettings& settings, std::int64_t batch) {
  const Submodel full = Submodel::full(*e.model.layout);
  const TrainingCost cost = task_cost(e, LocalObjective(), full, batch);
  const std::int64_t copy = weight_bytes(e, full);
  std::int64_t largest = 0;
  for (const Fragment& fragment : settings.fragments) {
    largest = std::max(largest, fragment.values() * static_cast<std::int64_t>(sizeof(float)));
  }
  // While fragments are applied or sent there are no activations, but a message and its values.
  const std::int64_t messages = cost.model_bytes + 2 * cost.message_bytes + 2 * largest;
  const std::int64_t sent = settings.arrival.needs_sent_values() ? cost.message_bytes : 0;
  return std::max(cost.peak_bytes, messages) + copy + sent;
}

std::vector<Workload::Passes> passes_between(const Experiment& e, std::int64_t region,
                                             std::int64_t begin, std::int64_t end) {
  const std::int64_t samples = e.samples_of(region);
  const std::int64_t batch = std::min(e.batch_of(region), samples);
  const std::int64_t rest = samples % batch;
  const std::int64_t per_epoch = samples / batch + (rest > 0 ? 1 : 0);
  // Of the first n steps, every per_epoch-th has the rest of an epoch.
  const std::int64_t rests = rest > 0 ? end / per_epoch - begin / per_epoch : 0;
  return passes_of(e.train, e.batch_of(region), {{batch, end - begin - rests}, {rest, rests}});
}

RegionsServer::RegionsServer(const Experiment& experiment, ServerSettings settings,
                             Parameters model, Run& run)
    : experiment_(experiment),
      settings_(std::move(settings)),
      run_(run),
      shared_(experiment, settings_.regions, settings_.outer, std::move(model)),
      schedule_(settings_.schedule,
                [&] {
                  std::vector<std::int64_t> values;
                  for (const Fragment& f : settings_.regions.fragments) {
                    values.push_back(f.values());
                  }
                  return values;
                }()),
      network_(devices_of(*experiment.fleet), settings_.clock.server) {
  Place first;
  first.tokens_since.assign(settings_.regions.fragments.size(), 0);
  places_.assign(static_cast<std::size_t>(experiment.fleet->size()), first);
  ClockSettings clock = settings_.clock;
  clock.server = ServerResources();  // the network has the server's links
  clock_ = make_clock(clock, run.pool(), run.real_time());
}

void RegionsServer::begin() {
  clock_->start(state_.now);
  for (std::int64_t region = 0; region < regions(); ++region) {
    if (place(region).job >= 0) {
      clock_->send_again(flight_of(region), job_of(region));
    } else if (place(region).is_present != 0) {
      go_on(region, state_.now);
    }
  }
}

void RegionsServer::advance() {
  const auto limit = network_.next_time();
  std::optional<Clock::Event> event;
  if (!clock_->out().empty()) {
    run_.heed_stops([&] { event = clock_->next(limit); });
  } else {
    ESPALIER_CHECK(limit.has_value(), "no region has work at step {}", places_.front().step);
    run_.heed_stops([&] { clock_->pass(*limit); });
  }
  const Stopwatch busy = run_.busy();
  if (event) {
    finished(std::move(*event));
  } else if (const auto change = network_.take()) {
    on_network(*change);
  }
  make_versions();
}

void RegionsServer::end() {
  for (const auto& [number, exchange] : exchanges_) record_unapplied(exchange);
}

std::string RegionsServer::summary() const {
  return formatted("up_mb={:.3f} down_mb={:.3f}", static_cast<double>(state_.bytes_up) * 1e-6,
                   static_cast<double>(state_.bytes_down) * 1e-6);
}

// Regions ---------------------------------------------------------------------------------------

/// The step, after `step` and in its period, before whose end the region fails.
std::optional<std::int64_t> RegionsServer::failing_step(std::int64_t region,
                                                        std::int64_t step) const {
  const std::int64_t period = period_of(step);
  const InjectedFault fault = settings_.faults.fault(region, period);
  if (!fault.crashes && !fault.vanishes) return std::nullopt;
  Stream stream(experiment_.seed, kFailingStep, region, period);
  const std::int64_t length = settings_.schedule.period;
  const std::int64_t failing = period * length + 1 + stream.below(length);
  return failing > step ? std::optional(failing) : std::nullopt;
}

/// The next step after `step` at which the region sends, applies, fails or ends a period.
std::int64_t RegionsServer::next_stop(std::int64_t region, std::int64_t step) const {
  std::int64_t next =
      std::min((period_of(step) + 1) * settings_.schedule.period, schedule_.next_slot(step));
  for (const auto& [number, exchange] : exchanges_) {
    if (exchange.applied_step > step) next = std::min(next, exchange.applied_step);
  }
  return std::min(next, failing_step(region, step).value_or(next));
}

/// The exchanges that the region applies at `step`; it has sent its own values before.
std::vector<Exchange*> RegionsServer::due(std::int64_t region, std::int64_t step) {
  const auto i = static_cast<std::size_t>(region);
  std::vector<Exchange*> found;
  for (auto& [number, exchange] : exchanges_) {
    if (exchange.applied_step == step && exchange.handed[i] != Exchange::kWaiting &&
        exchange.applied[i] == Exchange::kWaiting) {
      found.push_back(&exchange);
    }
  }
  return found;
}

/// What the region sends at `step` and has not sent yet. The first region that comes to a slot
/// decides for all; it has applied all that was due before, so all would decide alike.
std::vector<RegionTask::Sent> RegionsServer::sendings(std::int64_t region, std::int64_t step) {
  if (step == 0 || schedule_.next_slot(step - 1) != step) return {};
  const auto [slot, is_new] = slots_.try_emplace(step);
  if (is_new) {
    for (const int fragment : schedule_.choose(step)) {
      slot->second.push_back(state_.next_exchange);
      open_exchange(fragment, step);
    }
  }
  std::vector<RegionTask::Sent> sent;
  for (const std::int64_t number : slot->second) {
    const auto found = exchanges_.find(number);
    if (found == exchanges_.end()) continue;  // over
    if (found->second.handed[static_cast<std::size_t>(region)] != Exchange::kWaiting) continue;
    sent.push_back({number, found->second.fragment});
  }
  return sent;
}

void RegionsServer::open_exchange(int fragment, std::int64_t step) {
  Exchange e;
  e.number = state_.next_exchange++;
  e.fragment = fragment;
  e.sent_step = step;
  e.applied_step = step + settings_.schedule.overlap;
  for (const Place& p : places_) {
    e.handed.push_back(p.is_present != 0 ? Exchange::kWaiting : Exchange::kNever);
    const auto region = static_cast<std::int64_t>(e.lost.size());
    const bool is_lost =
        settings_.lost > 0 && settings_.faults.concern(region) &&
        Stream(experiment_.seed, kLost, region, e.number).uniform() < settings_.lost;
    e.lost.push_back(is_lost ? 1 : 0);
  }
  e.applied = e.handed;
  e.arrived.assign(places_.size(), Exchange::kWaiting);
  e.tokens.assign(places_.size(), 0);
  e.norms.assign(places_.size(), 0);
  e.weights.assign(places_.size(), 0);
  e.values.resize(places_.size());
  exchanges_.emplace(e.number, std::move(e));
}

/// Sends the region's next job, unless it has to wait for a fragment or is at the end of the run.
void RegionsServer::go_on(std::int64_t region, Nanoseconds now) {
  const auto i = static_cast<std::size_t>(region);
  Place& p = place(region);
  const std::vector<Exchange*> applied = due(region, p.step);
  for (const Exchange* exchange : applied) {
    if (exchange->arrived[i] == Exchange::kWaiting) return;
  }
  RegionTask task;
  task.from = task.goal = p.step;
  task.sent = sendings(region, p.step);
  if (task.sent.empty()) {
    if (p.step >= last_step()) return;
    task.goal = next_stop(region, p.step);
    if (due(region, task.goal).empty()) task.sent = sendings(region, task.goal);
  }
  p.is_lost = task.goal > p.step && failing_step(region, p.step) == task.goal ? 1 : 0;
  Bytes payload;
  const auto append = [&](const Bytes& bytes) {
    payload.insert(payload.end(), bytes.begin(), bytes.end());
  };
  if (std::exchange(p.must_join, 0) != 0) {
    task.joins = p.joins;
    append(shared_.values());
  }
  for (Exchange* exchange : applied) {
    task.applied.push_back(
        {exchange->number, exchange->fragment, p.step - exchange->sent_step, exchange->lost[i]});
    append(exchange->merged);
    exchange->applied[i] = now;
    record(*exchange, region, p.time);
  }
  forget_finished();
  p.stalled += now - p.time;
  p.time = now;
  p.task = std::move(task);
  p.payload = to_shared(std::move(payload));
  p.job = state_.next_job++;
  clock_->send(flight_of(region), job_of(region));
}

Flight RegionsServer::flight_of(std::int64_t region) const {
  const Place& p = place(region);
  Flight flight{.number = p.job, .endpoint = region};
  flight.is_answered = p.is_lost == 0;
  flight.sent = p.time;
  flight.compute = work_time(region, p.step, p.task.goal);
  flight.flops = (p.task.goal - p.step) + 1;  // all steps weigh the same
  return flight;
}

Job RegionsServer::job_of(std::int64_t region) const {
  const Place& p = place(region);
  Job job{.kind = kRegionJob, .number = p.job, .endpoint = region, .needs_resident = true};
  job.version = state_.version;
  job.head = to_shared(p.task.encode());
  job.payload = p.payload;
  return job;
}

/// Of steps in one period.
Nanoseconds RegionsServer::work_time(std::int64_t region, std::int64_t begin,
                                     std::int64_t end) const {
  if (begin == end) return 0;
  Nanoseconds time = 0;
  if (settings_.lock_step) {
    for (std::int64_t other = 0; other < regions(); ++other) {
      time = std::max(time, own_time(experiment_, other, begin, end));
    }
  } else {
    time = own_time(experiment_, region, begin, end);
  }
  const double slowdown = settings_.faults.fault(region, period_of(begin)).slowdown;
  return slowdown == 1 ? time : std::llround(static_cast<double>(time) * slowdown);
}

/// A region has done its job, or failed.
void RegionsServer::finished(Clock::Event event) {
  state_.now = event.flight.finish;
  const std::int64_t region = event.flight.endpoint;
  Place& p = place(region);
  p.time = state_.now;
  p.job = -1;
  p.payload.reset();
  if (!event.answer) {
    pass(region, p.task.goal, false);
    leave(region);
    return;
  }
  const RegionResult result = RegionResult::decode(*event.answer->head);
  p.computed += event.flight.compute;
  p.samples += result.samples;
  p.tokens += result.tokens;
  p.loss_sum += result.loss_sum;
  p.peak_bytes = result.peak_bytes;
  for (std::int64_t& tokens : p.tokens_since) tokens += result.tokens;
  pass(region, p.task.goal, true);
  hand_over(region, *event.answer->payload);
  go_on(region, state_.now);
}

/// The region is now at `step`; the steps up to there were trained or lost.
void RegionsServer::pass(std::int64_t region, std::int64_t step, bool trained) {
  Place& p = place(region);
  while (p.step < step) {
    const std::int64_t end = (period_of(p.step) + 1) * settings_.schedule.period;
    const std::int64_t next = std::min(step, end);
    (trained ? p.steps : p.lost_steps) += next - p.step;
    p.step = next;
    if (next == end) end_period(region);
  }
}

void RegionsServer::end_period(std::int64_t region) {
  Place& p = place(region);
  const double loss = p.samples > 0 ? p.loss_sum / static_cast<double>(p.samples)
                                    : std::numeric_limits<double>::quiet_NaN();
  if (p.samples > 0) state_.period_loss = loss;
  Row row(regions_schema());
  row.set("period", period_of(p.step))
      .set("region", region)
      .set("steps", p.steps)
      .set("lost_steps", p.lost_steps)
      .set("samples", p.samples)
      .set("tokens", p.tokens)
      .set("train_loss", loss)
      .set("reached_s", seconds(state_.now))
      .set("compute_s", seconds(p.computed))
      .set("stall_s", seconds(p.stalled))
      .set("peak_bytes", p.peak_bytes);
  run_.records().append(row);
  p.steps = p.lost_steps = p.samples = p.tokens = 0;
  p.loss_sum = 0;
  p.computed = p.stalled = 0;
}

/// Hands what the region sends to its link.
void RegionsServer::hand_over(std::int64_t region, const Bytes& values) {
  const auto i = static_cast<std::size_t>(region);
  Place& p = place(region);
  auto first = values.begin();
  for (const RegionTask::Sent& sent : p.task.sent) {
    Exchange& exchange = exchanges_.at(sent.exchange);
    const std::int64_t bytes =
        encoded_bytes(settings_.regions.codec, fragment_of(exchange).tensors);
    exchange.values[i] = Bytes(first, first + bytes);
    first += bytes;
    exchange.handed[i] = state_.now;
    exchange.tokens[i] = std::exchange(p.tokens_since[static_cast<std::size_t>(sent.fragment)], 0);
    state_.bytes_up += bytes;
    if (settings_.topology == Topology::star && exchange.contributes(i)) {
      network_.hand_over(sent.exchange, region, bytes, state_.now);
    }
    begin_merge(sent.exchange);
  }
}

/// The region has lost its replica. Merges go on without it until it has the shared copy: at once
/// after a crash, after a while if it vanished.
void RegionsServer::leave(std::int64_t region) {
  const auto i = static_cast<std::size_t>(region);
  Place& p = place(region);
  p.is_present = 0;
  std::vector<std::int64_t> open;
  for (auto& [number, exchange] : exchanges_) {
    if (exchange.handed[i] == Exchange::kWaiting) {
      exchange.handed[i] = Exchange::kNever;
      open.push_back(number);
    }
    if (exchange.applied[i] == Exchange::kWaiting) exchange.applied[i] = Exchange::kNever;
  }
  const std::int64_t period = period_of(p.step - 1);
  Nanoseconds back = state_.now;
  if (settings_.faults.fault(region, period).vanishes) {
    const auto length =
        static_cast<double>(own_time(experiment_, region, 0, settings_.schedule.period));
    back += std::llround(settings_.faults.vanish_tasks() * length);
  }
  network_.send_copy(region, shared_.bytes(), back);
  for (const std::int64_t number : open) begin_merge(number);
  forget_finished();
}

/// The region has the shared copy, and goes on at the step of the foremost region. Merges that are
/// still to come reach it too.
void RegionsServer::join(std::int64_t region) {
  const auto i = static_cast<std::size_t>(region);
  Place& p = place(region);
  std::int64_t foremost = p.step;
  for (const Place& other : places_) {
    if (other.is_present != 0) foremost = std::max(foremost, other.step);
  }
  pass(region, foremost, false);
  p.is_present = p.must_join = 1;
  ++p.joins;
  p.time = state_.now;
  std::ranges::fill(p.tokens_since, 0);
  for (auto& [number, exchange] : exchanges_) {
    if (exchange.is_merged == 0 && exchange.applied_step >= foremost) {
      exchange.applied[i] = Exchange::kWaiting;
    }
  }
  go_on(region, state_.now);
}

// Exchanges -------------------------------------------------------------------------------------

void RegionsServer::on_network(const Network::Event& event) {
  state_.now = std::max(state_.now, event.time);
  switch (event.kind) {
    case Network::Event::Kind::at_server_link:
      return;
    case Network::Event::Kind::received:
      ++exchanges_.at(event.exchange).received;
      begin_merge(event.exchange);
      return;
    case Network::Event::Kind::averaged:
      merge(exchanges_.at(event.exchange));
      on_merged(event.exchange);
      return;
    case Network::Event::Kind::arrived: {
      const auto exchange = exchanges_.find(event.exchange);
      if (exchange == exchanges_.end()) return;  // the region left, and all others have applied it
      exchange->second.arrived[static_cast<std::size_t>(event.region)] = state_.now;
      state_.bytes_down += std::ssize(exchange->second.merged);
      wake(event.exchange, event.region);
      return;
    }
    case Network::Event::Kind::joined:
      state_.bytes_down += shared_.bytes();
      join(event.region);
  }
}

/// Begins to merge an exchange if every region that takes part has sent its values, and, with a
/// star, the server has them.
void RegionsServer::begin_merge(std::int64_t number) {
  Exchange& exchange = exchanges_.at(number);
  if (exchange.is_begun != 0 || !exchange.is_complete()) return;
  const std::int64_t contributors = exchange.contributors();
  const Fragment& fragment = fragment_of(exchange);
  if (contributors == 0) {
    exchange.is_begun = exchange.is_merged = 1;
    exchange.merged = shared_.unchanged(exchange.fragment);
    on_merged(number);
    return;
  }
  if (settings_.topology == Topology::star) {
    if (exchange.received < contributors) return;
    exchange.is_begun = 1;
    network_.merge(number, kFlopsPerMergedValue * fragment.values() * contributors, state_.now);
    return;
  }
  exchange.is_begun = 1;
  std::vector<std::int64_t> members;
  for (std::int64_t region = 0; region < regions(); ++region) {
    if (exchange.contributes(static_cast<std::size_t>(region))) members.push_back(region);
  }
  network_.all_reduce(number, members, encoded_bytes(settings_.regions.codec, fragment.tensors),
                      state_.now);
}

double RegionsServer::weight_of(const Exchange& exchange, std::int64_t region) const {
  switch (settings_.weights) {
    case Weights::uniform:
      return 1;
    case Weights::samples:
      return static_cast<double>(experiment_.samples_of(region));
    case Weights::tokens:
      return static_cast<double>(exchange.tokens[static_cast<std::size_t>(region)]);
  }
  return 1;
}

void RegionsServer::merge(Exchange& exchange) {
  std::vector<std::size_t> members;
  std::vector<Contribution> contributions;
  for (std::int64_t region = 0; region < regions(); ++region) {
    const auto i = static_cast<std::size_t>(region);
    if (!exchange.contributes(i)) continue;
    members.push_back(i);
    contributions.push_back({&exchange.values[i], weight_of(exchange, region)});
  }
  SharedCopy::Merged merged = shared_.merge(exchange.fragment, exchange.sent_step, contributions);
  for (std::size_t k = 0; k < members.size(); ++k) {
    exchange.weights[members[k]] = contributions[k].weight;
    exchange.norms[members[k]] = contributions[k].norm;
  }
  for (Bytes& values : exchange.values) values = Bytes();
  schedule_.merged(static_cast<int>(exchange.fragment), exchange.sent_step, merged.norm);
  exchange.is_merged = 1;
  exchange.merged = std::move(merged.values);
  kill_point("regions.merged");
}

/// Brings the merged values to the regions that will apply them.
void RegionsServer::on_merged(std::int64_t number) {
  Exchange& exchange = exchanges_.at(number);
  std::vector<std::int64_t> receivers;
  for (std::int64_t region = 0; region < regions(); ++region) {
    if (exchange.applied[static_cast<std::size_t>(region)] == Exchange::kWaiting) {
      receivers.push_back(region);
    }
  }
  if (settings_.topology == Topology::star) {
    for (const std::int64_t region : receivers) {
      network_.send_down(number, region, std::ssize(exchange.merged), state_.now);
    }
    return;
  }
  const std::int64_t bytes = encoded_bytes(settings_.regions.codec, fragment_of(exchange).tensors);
  for (const std::int64_t region : receivers) {
    exchange.arrived[static_cast<std::size_t>(region)] = state_.now;
    state_.bytes_down += bytes;
  }
  for (const std::int64_t region : receivers) wake(number, region);
}

/// Lets a region go on that waits for the exchange.
void RegionsServer::wake(std::int64_t number, std::int64_t region) {
  const Place& p = place(region);
  const auto exchange = exchanges_.find(number);
  if (exchange == exchanges_.end() || p.job >= 0 || p.is_present == 0) return;
  if (p.step == exchange->second.applied_step) go_on(region, state_.now);
}

void RegionsServer::forget_finished() {
  std::erase_if(exchanges_, [this](const auto& item) {
    const Exchange& exchange = item.second;
    if (exchange.is_merged == 0 || !exchange.is_over()) return false;
    record_unapplied(exchange);
    return true;
  });
}

/// Rows of the regions that sent values and did not apply the merged ones.
void RegionsServer::record_unapplied(const Exchange& exchange) {
  for (std::int64_t region = 0; region < regions(); ++region) {
    const auto i = static_cast<std::size_t>(region);
    if (exchange.handed[i] >= 0 && exchange.applied[i] < 0) record(exchange, region, 0);
  }
}

/// `reached`: when the region came to the step at which it applies the exchange.
void RegionsServer::record(const Exchange& exchange, std::int64_t region, Nanoseconds reached) {
  const auto i = static_cast<std::size_t>(region);
  const Fragment& fragment = fragment_of(exchange);
  const auto seconds_or_none = [](Nanoseconds time) {
    return time >= 0 ? seconds(time) : std::numeric_limits<double>::quiet_NaN();
  };
  const bool is_applied = exchange.applied[i] >= 0;
  const bool has_sent = exchange.handed[i] >= 0;
  const std::int64_t up = encoded_bytes(settings_.regions.codec, fragment.tensors);
  const std::int64_t down = settings_.topology == Topology::star
                                ? fragment.values() * static_cast<std::int64_t>(sizeof(float))
                                : up;
  const Nanoseconds stall =
      is_applied ? std::max<Nanoseconds>(0, exchange.arrived[i] - reached) : 0;
  Row row(exchanges_schema());
  row.set("exchange", exchange.number)
      .set("fragment", exchange.fragment)
      .set("region", region)
      .set("sent_step", has_sent ? exchange.sent_step : -1)
      .set("applied_step", is_applied ? exchange.applied_step : -1)
      .set("sent_s", seconds_or_none(exchange.handed[i]))
      .set("arrived_s", seconds_or_none(exchange.arrived[i]))
      .set("applied_s", seconds_or_none(exchange.applied[i]))
      .set("stall_s", seconds(stall))
      .set("lost", has_sent ? exchange.lost[i] : 0)
      .set("bytes_up", has_sent ? up : 0)
      .set("bytes_down", exchange.arrived[i] >= 0 ? down : 0)
      .set("norm", exchange.norms[i])
      .set("weight", exchange.weights[i]);
  run_.records().append(row);
}

/// Version v is the shared copy with every exchange that was sent up to the end of period v.
void RegionsServer::make_versions() {
  while (true) {
    const std::int64_t step = (state_.version + 1) * settings_.schedule.period;
    if (step > last_step()) return;
    const auto is_there = [&](const Place& p) {
      const bool sends = p.step == step && p.job >= 0 && !p.task.sent.empty();
      return p.step >= step && !sends;
    };
    const bool any = std::ranges::any_of(places_, is_there);
    const bool all = std::ranges::all_of(
        places_, [&](const Place& p) { return p.is_present == 0 || is_there(p); });
    const bool are_merged = std::ranges::none_of(exchanges_, [&](const auto& item) {
      return item.second.sent_step <= step && item.second.is_merged == 0;
    });
    if (!any || !all || !are_merged) return;
    ++state_.version;
    state_.made = state_.now;
    run_.report({state_.version, state_.now, state_.period_loss});
    kill_point("regions.version");
    std::erase_if(slots_, [&](const auto& slot) { return slot.first < step; });
    if (!run_.made_version(state_.version, state_.now, shared_.model())) return;
  }
}

// Checkpoints -----------------------------------------------------------------------------------

void RegionsServer::archive(Archive& archive) {
  archive.open("regions");
  archive.value("version", state_.version);
  archive.value("made", state_.made);
  archive.value("now", state_.now);
  archive.value("next_exchange", state_.next_exchange);
  archive.value("next_job", state_.next_job);
  archive.value("period_loss", state_.period_loss);
  archive.value("bytes_up", state_.bytes_up);
  archive.value("bytes_down", state_.bytes_down);
  schedule_.archive(archive);
  shared_.archive(archive);
  archive.open("network");
  network_.archive(archive);
  archive.close();
  std::vector<Exchange> exchanges;
  for (auto& [number, exchange] : exchanges_) exchanges.push_back(std::move(exchange));
  archive_list(archive, "exchanges", exchanges,
               [](Archive& a, Exchange& exchange) { exchange.archive(a); });
  exchanges_.clear();
  for (Exchange& exchange : exchanges) {
    const std::int64_t number = exchange.number;
    exchanges_.emplace(number, std::move(exchange));
  }
  std::vector<std::pair<std::int64_t, std::vector<std::int64_t>>> slots(slots_.begin(),
                                                                        slots_.end());
  archive_list(archive, "slots", slots, [](Archive& a, auto& slot) {
    a.value("step", slot.first);
    a.value("exchanges", slot.second);
  });
  slots_ = {slots.begin(), slots.end()};
  archive_list(archive, "places", places_,
               [](Archive& a, Place& place) { archive_place(a, place); });
  std::vector<Endpoint> endpoints(places_.size());
  std::iota(endpoints.begin(), endpoints.end(), 0);
  archive.open("residents");
  archive_residents(archive, run_.pool(), kRegion, endpoints);
  archive.close();
  archive.close();
}

void RegionsServer::archive_place(Archive& archive, Place& p) {
  archive.value("step", p.step);
  archive.value("time", p.time);
  archive.value("is_present", p.is_present);
  archive.value("joins", p.joins);
  archive.value("must_join", p.must_join);
  archive.value("job", p.job);
  archive.value("is_lost", p.is_lost);
  Bytes task, payload;
  if (!archive.loading()) {
    task = p.task.encode();
    if (p.payload) payload = *p.payload;
  }
  archive.value("task", task);
  archive.value("payload", payload);
  if (archive.loading()) {
    p.task = RegionTask::decode(task);
    p.payload = to_shared(std::move(payload));
  }
  archive.value("steps", p.steps);
  archive.value("lost_steps", p.lost_steps);
  archive.value("samples", p.samples);
  archive.value("tokens", p.tokens);
  archive.value("loss_sum", p.loss_sum);
  archive.value("computed", p.computed);
  archive.value("stalled", p.stalled);
  archive.value("peak_bytes", p.peak_bytes);
  archive.value("tokens_since", p.tokens_since);
}

}  // namespace espalier::regions
