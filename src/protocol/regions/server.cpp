#include "espalier/protocol/regions/server.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/kill_point.h"
#include "espalier/protocol/regions/tables.h"
#include "espalier/train/evaluate.h"
#include "espalier/train/task_cost.h"

namespace espalier::regions {
namespace {

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
      {"uniform", "samples", "tokens"});
  table.add({"regions.lock_step", OptionType::boolean, "false",
             "every step of every region takes as long as that of the slowest region"});
}

ServerSettings server_settings(const Config& config, const Experiment& experiment) {
  ServerSettings s{.regions = region_settings(config, experiment),
                   .schedule = {},
                   .outer = outer_settings(config),
                   .clock = clock_settings(config, *experiment.fleet)};
  if (config.text("regions.topology") == "ring") s.topology = Topology::ring;
  const std::string weights = config.text("regions.weights");
  s.weights = weights == "samples"  ? Weights::samples
              : weights == "tokens" ? Weights::tokens
                                    : Weights::uniform;
  s.lock_step = config.boolean("regions.lock_step");
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
  const std::int64_t part = part_size(e.train, e.batch_of(region));
  std::map<std::int64_t, std::int64_t, std::greater<>> passes;
  const auto add = [&](std::int64_t size, std::int64_t steps) {
    if (steps == 0) return;
    if (size / part > 0) passes[part] += steps * (size / part);
    if (size % part > 0) passes[size % part] += steps;
  };
  add(batch, end - begin - rests);
  add(rest, rests);
  std::vector<Workload::Passes> made;
  for (const auto& [size, count] : passes) made.push_back({size, count});
  return made;
}

RegionsServer::RegionsServer(const Experiment& experiment, ServerSettings settings,
                             Parameters model, Run& run)
    : experiment_(experiment),
      settings_(std::move(settings)),
      run_(run),
      model_(std::move(model)),
      schedule_(settings_.schedule,
                [&] {
                  std::vector<std::int64_t> values;
                  for (const Fragment& f : settings_.regions.fragments)
                    values.push_back(f.values());
                  return values;
                }()),
      network_(settings_.topology, devices_of(*experiment.fleet), settings_.clock.server) {
  for (const Fragment& fragment : settings_.regions.fragments) {
    outer_.emplace_back(settings_.outer, fragment.values());
  }
  if (settings_.regions.gradients) {
    inner_.emplace(experiment_.train, model_.trainable().numel());
  }
  Place first;
  first.tokens_since.assign(settings_.regions.fragments.size(), 0);
  places_.assign(static_cast<std::size_t>(experiment.fleet->size()), first);
  ClockSettings clock = settings_.clock;
  clock.server = ServerResources();  // the network has the server's links
  clock_ = make_clock(clock, run.pool(), run.real_time());
}

void RegionsServer::begin() {
  clock_->start(now_);
  for (std::int64_t region = 0; region < regions(); ++region) {
    if (places_[static_cast<std::size_t>(region)].job >= 0) {
      clock_->send_again(flight_of(region), job_of(region));
    } else {
      go_on(region, now_);
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
  for (const auto& [number, exchange] : exchanges_) {
    for (std::int64_t region = 0; region < regions(); ++region) {
      const auto i = static_cast<std::size_t>(region);
      if (exchange.handed[i] >= 0 && exchange.applied[i] < 0) record(exchange, region, 0);
    }
  }
}

std::string RegionsServer::summary() const {
  return formatted("up_mb={:.3f} down_mb={:.3f}", static_cast<double>(bytes_up_) * 1e-6,
                   static_cast<double>(bytes_down_) * 1e-6);
}

// Regions ---------------------------------------------------------------------------------------

/// The next step after `step` at which a region sends, applies, or ends a period.
std::int64_t RegionsServer::next_stop(std::int64_t step) const {
  const std::int64_t period = settings_.schedule.period;
  std::int64_t next = std::min((step / period + 1) * period, schedule_.next_slot(step));
  for (const auto& [number, exchange] : exchanges_) {
    if (exchange.applied_step > step) next = std::min(next, exchange.applied_step);
  }
  return next;
}

/// The exchanges that the region has sent before and applies at `step`.
std::vector<RegionsServer::Exchange*> RegionsServer::due(std::int64_t region, std::int64_t step) {
  const auto i = static_cast<std::size_t>(region);
  std::vector<Exchange*> found;
  for (auto& [number, exchange] : exchanges_) {
    if (exchange.applied_step == step && exchange.handed[i] >= 0 && exchange.applied[i] < 0) {
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
    const auto count = places_.size();
    for (const int fragment : schedule_.choose(step)) {
      Exchange e;
      e.number = next_exchange_++;
      e.fragment = fragment;
      e.sent_step = step;
      e.applied_step = step + settings_.schedule.overlap;
      e.handed.assign(count, -1);
      e.arrived = e.applied = e.handed;
      e.tokens.assign(count, 0);
      e.norms.assign(count, 0);
      e.weights.assign(count, 0);
      e.values.resize(count);
      slot->second.push_back(e.number);
      exchanges_.emplace(e.number, std::move(e));
    }
  }
  std::vector<RegionTask::Sent> sent;
  for (const std::int64_t number : slot->second) {
    const auto found = exchanges_.find(number);
    if (found == exchanges_.end()) continue;  // all regions have applied it
    if (found->second.handed[static_cast<std::size_t>(region)] >= 0) continue;
    sent.push_back({number, found->second.fragment});
  }
  return sent;
}

/// Sends the region's next job, unless it has to wait for a fragment or is at the end of the run.
void RegionsServer::go_on(std::int64_t region, Nanoseconds now) {
  const auto i = static_cast<std::size_t>(region);
  Place& place = places_[i];
  const std::vector<Exchange*> applied = due(region, place.step);
  for (const Exchange* exchange : applied) {
    if (exchange->arrived[i] < 0) return;
  }
  RegionTask task;
  task.joins = place.joins;
  task.goal = place.step;
  task.sent = sendings(region, place.step);
  if (task.sent.empty()) {
    if (place.step >= last_step()) return;
    task.goal = next_stop(place.step);
    if (due(region, task.goal).empty()) task.sent = sendings(region, task.goal);
  }
  Bytes payload;
  const auto append = [&](const Bytes& bytes) {
    payload.insert(payload.end(), bytes.begin(), bytes.end());
  };
  if (place.joins > 0) {
    const Submodel full = Submodel::full(*experiment_.model.layout);
    append(*pack_payload(*experiment_.plans, model_,
                         *experiment_.plans->buffer_layout(full, Packing::dense)));
  }
  for (Exchange* exchange : applied) {
    task.applied.push_back(
        {exchange->number, exchange->fragment, place.step - exchange->sent_step});
    append(exchange->merged);
    exchange->applied[i] = now;
    record(*exchange, region, place.time);
  }
  std::erase_if(exchanges_, [](const auto& item) {
    return std::ranges::all_of(item.second.applied, [](std::int64_t time) { return time >= 0; });
  });
  place.stalled += now - place.time;
  place.time = now;
  place.task = std::move(task);
  place.payload = to_shared(std::move(payload));
  place.job = next_job_++;
  place.joins = 0;
  clock_->send(flight_of(region), job_of(region));
}

Flight RegionsServer::flight_of(std::int64_t region) const {
  const Place& place = places_[static_cast<std::size_t>(region)];
  Flight flight{.number = place.job, .endpoint = region};
  flight.sent = place.time;
  flight.compute = work_time(region, place.step, place.task.goal);
  flight.flops = (place.task.goal - place.step) + 1;  // all steps weigh the same
  return flight;
}

Job RegionsServer::job_of(std::int64_t region) const {
  const Place& place = places_[static_cast<std::size_t>(region)];
  Job job{.kind = kRegionJob, .number = place.job, .endpoint = region, .needs_resident = true};
  job.version = version_;
  job.head = to_shared(place.task.encode());
  job.payload = place.payload;
  return job;
}

Nanoseconds RegionsServer::work_time(std::int64_t region, std::int64_t begin,
                                     std::int64_t end) const {
  if (begin == end) return 0;
  if (!settings_.lock_step) return own_time(experiment_, region, begin, end);
  Nanoseconds slowest = 0;
  for (std::int64_t other = 0; other < regions(); ++other) {
    slowest = std::max(slowest, own_time(experiment_, other, begin, end));
  }
  return slowest;
}

/// A region has done its job.
void RegionsServer::finished(Clock::Event event) {
  now_ = event.flight.finish;
  const std::int64_t region = event.flight.endpoint;
  Place& place = places_[static_cast<std::size_t>(region)];
  const RegionResult result = RegionResult::decode(*event.answer->head);
  const bool has_trained = place.task.goal > place.step;
  place.step = place.task.goal;
  place.time = now_;
  place.job = -1;
  place.payload.reset();
  place.computed += event.flight.compute;
  place.samples += result.samples;
  place.tokens += result.tokens;
  place.loss_sum += result.loss_sum;
  for (std::int64_t& tokens : place.tokens_since) tokens += result.tokens;
  hand_over(region, *event.answer->payload);
  if (has_trained && place.step % settings_.schedule.period == 0) {
    end_period(region, result.peak_bytes);
  }
  go_on(region, now_);
}

/// Hands what the region sends to its link.
void RegionsServer::hand_over(std::int64_t region, const Bytes& values) {
  const auto i = static_cast<std::size_t>(region);
  Place& place = places_[i];
  std::size_t begin = 0;
  for (const RegionTask::Sent& sent : place.task.sent) {
    Exchange& exchange = exchanges_.at(sent.exchange);
    const auto fragment = static_cast<std::size_t>(sent.fragment);
    const std::int64_t bytes =
        encoded_bytes(settings_.regions.codec, settings_.regions.fragments[fragment].tensors);
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
    exchange.values[i] = Bytes(first, first + bytes);
    begin += static_cast<std::size_t>(bytes);
    exchange.handed[i] = now_;
    exchange.tokens[i] = std::exchange(place.tokens_since[fragment], 0);
    bytes_up_ += bytes;
    network_.hand_over(sent.exchange, region, bytes, now_);
  }
}

void RegionsServer::end_period(std::int64_t region, std::int64_t peak_bytes) {
  Place& place = places_[static_cast<std::size_t>(region)];
  period_loss_ = place.loss_sum / static_cast<double>(place.samples);
  Row row(regions_schema());
  row.set("period", place.step / settings_.schedule.period)
      .set("region", region)
      .set("steps", settings_.schedule.period)
      .set("samples", place.samples)
      .set("tokens", place.tokens)
      .set("train_loss", period_loss_)
      .set("reached_s", seconds(now_))
      .set("compute_s", seconds(place.computed))
      .set("stall_s", seconds(place.stalled))
      .set("peak_bytes", peak_bytes);
  run_.records().append(row);
  place.samples = place.tokens = 0;
  place.loss_sum = 0;
  place.computed = place.stalled = 0;
}

// Exchanges -------------------------------------------------------------------------------------

void RegionsServer::on_network(const Network::Event& event) {
  now_ = std::max(now_, event.time);
  Exchange& exchange = exchanges_.at(event.exchange);
  const Fragment& fragment =
      settings_.regions.fragments[static_cast<std::size_t>(exchange.fragment)];
  switch (event.kind) {
    case Network::Event::Kind::at_server_link:
      return;
    case Network::Event::Kind::received:
      if (++exchange.received == regions()) {
        network_.merge(event.exchange, kFlopsPerMergedValue * fragment.values() * regions(), now_);
      }
      return;
    case Network::Event::Kind::averaged:
      merge(exchange);
      for (std::int64_t region = 0; region < regions(); ++region) {
        if (settings_.topology == Topology::star) {
          network_.send_down(event.exchange, region, std::ssize(exchange.merged), now_);
        } else {
          exchange.arrived[static_cast<std::size_t>(region)] = now_;
          bytes_down_ += encoded_bytes(settings_.regions.codec, fragment.tensors);
        }
      }
      if (settings_.topology == Topology::ring) {
        for (std::int64_t region = 0; region < regions(); ++region) wake(event.exchange, region);
      }
      return;
    case Network::Event::Kind::arrived:
      exchange.arrived[static_cast<std::size_t>(event.region)] = now_;
      bytes_down_ += std::ssize(exchange.merged);
      wake(event.exchange, event.region);
  }
}

/// Lets a region go on that waits for the exchange.
void RegionsServer::wake(std::int64_t number, std::int64_t region) {
  const Place& place = places_[static_cast<std::size_t>(region)];
  const auto exchange = exchanges_.find(number);
  if (exchange == exchanges_.end() || place.job >= 0) return;
  if (place.step == exchange->second.applied_step) go_on(region, now_);
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

/// Moves the shared copy by the mean of the regions' differences, or along their mean gradient.
void RegionsServer::merge(Exchange& exchange) {
  const RegionSettings& s = settings_.regions;
  const auto index = static_cast<std::size_t>(exchange.fragment);
  const Fragment& fragment = s.fragments[index];
  const auto size = static_cast<std::size_t>(fragment.values());
  // What a region sent is a difference to `shared`, unless it is a value or a gradient itself.
  const bool is_difference = s.codec != Codec::float32 && !s.gradients;
  std::vector<float> shared(size, 0.0F), values(size);
  if (!s.gradients) {
    experiment_.plans->plan(model_.buffer_layout(), *fragment.layout, nullptr, kTrained)
        ->copy(model_.data(), shared.data());
  }
  std::vector<double> mean(size, 0.0);
  double all = 0;
  for (std::int64_t region = 0; region < regions(); ++region) {
    const auto i = static_cast<std::size_t>(region);
    exchange.weights[i] = weight_of(exchange, region);
    // Divide by the first weight, so that equal weights are exactly 1.
    const double weight = exchange.weights[i] / exchange.weights.front();
    all += weight;
    decode(s.codec, fragment.tensors, exchange.values[i], values);
    exchange.values[i] = Bytes();
    double square = 0;
    for (std::size_t j = 0; j < size; ++j) {
      const double before = shared[j];
      const double value = is_difference ? before - static_cast<double>(values[j]) : values[j];
      mean[j] += weight * value;
      square += (before - value) * (before - value);
    }
    exchange.norms[i] = std::sqrt(square);
  }
  const double sum = std::accumulate(exchange.weights.begin(), exchange.weights.end(), 0.0);
  for (double& weight : exchange.weights) weight /= sum;
  double square = 0;
  for (std::size_t j = 0; j < size; ++j) {
    mean[j] /= all;
    const double difference = static_cast<double>(shared[j]) - mean[j];
    square += difference * difference;
  }
  if (!std::isfinite(square)) {
    throw NotFiniteError("the values of a region are not finite; lower train.lr or set train.clip");
  }
  schedule_.merged(static_cast<int>(exchange.fragment), exchange.sent_step, std::sqrt(square));
  if (s.gradients) {
    for (std::size_t j = 0; j < size; ++j) shared[j] = static_cast<float>(mean[j]);
    step_along(fragment, exchange.sent_step, shared);
  } else {
    outer_[index].step(shared, mean);
    experiment_.plans->plan(*fragment.layout, model_.buffer_layout(), nullptr, kTrained)
        ->copy(shared.data(), model_.data());
  }
  forget_statistics(model_);
  const auto* bytes = reinterpret_cast<const std::byte*>(shared.data());
  exchange.merged.assign(bytes, bytes + size * sizeof(float));
  kill_point("regions.merged");
}

/// The step that every region makes too.
void RegionsServer::step_along(const Fragment& fragment, std::int64_t step,
                               std::span<const float> gradient) {
  at::Tensor flat = at::zeros({model_.trainable().numel()}, at::kFloat);
  experiment_.plans->plan(*fragment.layout, model_.buffer_layout(), nullptr, kTrained)
      ->copy(gradient.data(), flat.data_ptr<float>());
  if (experiment_.train.clip > 0) clip_gradients(flat, experiment_.train.clip);
  inner_->step(model_.trainable(), flat, learning_rate(settings_.regions.train, step - 1));
}

/// `reached`: when the region came to the step at which it applies the exchange.
void RegionsServer::record(const Exchange& exchange, std::int64_t region, Nanoseconds reached) {
  const auto i = static_cast<std::size_t>(region);
  const Fragment& fragment =
      settings_.regions.fragments[static_cast<std::size_t>(exchange.fragment)];
  const bool is_applied = exchange.applied[i] >= 0;
  const bool has_arrived = exchange.arrived[i] >= 0;
  const auto seconds_or_none = [](bool is_known, Nanoseconds time) {
    return is_known ? seconds(time) : std::numeric_limits<double>::quiet_NaN();
  };
  const std::int64_t up = encoded_bytes(settings_.regions.codec, fragment.tensors);
  const std::int64_t down = settings_.topology == Topology::star
                                ? fragment.values() * static_cast<std::int64_t>(sizeof(float))
                                : up;
  Row row(exchanges_schema());
  row.set("exchange", exchange.number)
      .set("fragment", exchange.fragment)
      .set("region", region)
      .set("sent_step", exchange.sent_step)
      .set("applied_step", is_applied ? exchange.applied_step : -1)
      .set("sent_s", seconds(exchange.handed[i]))
      .set("arrived_s", seconds_or_none(has_arrived, exchange.arrived[i]))
      .set("applied_s", seconds_or_none(is_applied, exchange.applied[i]))
      .set("stall_s",
           is_applied ? seconds(std::max<Nanoseconds>(0, exchange.arrived[i] - reached)) : 0.0)
      .set("bytes_up", up)
      .set("bytes_down", has_arrived ? down : 0)
      .set("norm", exchange.norms[i])
      .set("weight", exchange.weights[i]);
  run_.records().append(row);
}

/// Version v is the shared copy with every exchange that was sent up to the end of period v.
void RegionsServer::make_versions() {
  while (true) {
    const std::int64_t step = (version_ + 1) * settings_.schedule.period;
    if (step > last_step()) return;
    const bool are_there = std::ranges::all_of(places_, [&](const Place& place) {
      return place.step >= step &&
             !(place.step == step && place.job >= 0 && !place.task.sent.empty());
    });
    const bool are_merged = std::ranges::none_of(exchanges_, [&](const auto& item) {
      return item.second.sent_step <= step && item.second.merged.empty();
    });
    if (!are_there || !are_merged) return;
    ++version_;
    made_ = now_;
    run_.report({version_, now_, period_loss_});
    kill_point("regions.version");
    std::erase_if(slots_, [&](const auto& slot) { return slot.first < step; });
    if (!run_.made_version(version_, now_, model_)) return;
  }
}

void RegionsServer::archive_exchange(Archive& archive, Exchange& e) {
  archive.value("number", e.number);
  archive.value("fragment", e.fragment);
  archive.value("sent_step", e.sent_step);
  archive.value("applied_step", e.applied_step);
  archive.value("handed", e.handed);
  archive.value("arrived", e.arrived);
  archive.value("applied", e.applied);
  archive.value("tokens", e.tokens);
  archive.value("norms", e.norms);
  archive.value("weights", e.weights);
  archive.value("received", e.received);
  archive.value("merged", e.merged);
  e.values.resize(places_.size());
  for (Bytes& values : e.values) archive.value("values", values);
}

void RegionsServer::archive(Archive& archive) {
  archive.open("regions");
  archive.value("version", version_);
  archive.value("made", made_);
  archive.value("now", now_);
  archive.value("next_exchange", next_exchange_);
  archive.value("next_job", next_job_);
  archive.value("period_loss", period_loss_);
  archive.value("bytes_up", bytes_up_);
  archive.value("bytes_down", bytes_down_);
  schedule_.archive(archive);
  for (std::size_t i = 0; i < outer_.size(); ++i) {
    archive.open(("outer_" + std::to_string(i)).c_str());
    outer_[i].archive(archive);
    archive.close();
  }
  if (inner_) archive_inner(archive);
  archive.open("network");
  network_.archive(archive);
  archive.close();
  std::vector<Exchange> exchanges;
  for (auto& [number, exchange] : exchanges_) exchanges.push_back(exchange);
  archive_list(archive, "exchanges", exchanges,
               [this](Archive& a, Exchange& exchange) { archive_exchange(a, exchange); });
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

void RegionsServer::archive_inner(Archive& archive) {
  Bytes state;
  if (!archive.loading()) {
    ByteArchive out;
    inner_->archive(out, *experiment_.plans, model_.buffer_layout());
    state = out.take();
  }
  archive.value("inner", state);
  if (!archive.loading()) return;
  ByteArchive in(state);
  inner_->archive(in, *experiment_.plans, model_.buffer_layout());
}

void RegionsServer::archive_place(Archive& archive, Place& place) {
  archive.value("step", place.step);
  archive.value("time", place.time);
  archive.value("joins", place.joins);
  archive.value("job", place.job);
  Bytes task, payload;
  if (!archive.loading()) {
    task = place.task.encode();
    if (place.payload) payload = *place.payload;
  }
  archive.value("task", task);
  archive.value("payload", payload);
  if (archive.loading()) {
    place.task = RegionTask::decode(task);
    place.payload = to_shared(std::move(payload));
  }
  archive.value("samples", place.samples);
  archive.value("tokens", place.tokens);
  archive.value("loss_sum", place.loss_sum);
  archive.value("computed", place.computed);
  archive.value("stalled", place.stalled);
  archive.value("tokens_since", place.tokens_since);
}

}  // namespace espalier::regions
