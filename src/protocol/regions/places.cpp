#include "espalier/protocol/regions/places.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "espalier/device/emulated_time.h"
#include "espalier/protocol/regions/tables.h"

namespace espalier::regions {
namespace {

const Purpose kFailingStep = register_purpose("regions.failing_step");
const Purpose kLost = register_purpose("faults.lost");

/// Changes of availability after which a region is taken to be away for ever.
constexpr int kMostChanges = 100000;

void archive_place(Archive& archive, Place& p) {
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
  archive.value("steps_since", p.steps_since);
}

}  // namespace

Places::Places(const Experiment& experiment, const ServerSettings& settings, Run& run)
    : experiment_(experiment), settings_(settings), run_(run), times_(experiment) {
  Place first;
  first.tokens_since.assign(settings.regions.fragments.size(), 0);
  first.steps_since = first.tokens_since;
  places_.assign(static_cast<std::size_t>(experiment.fleet->size()), first);
  ClockSettings clock = settings.clock;
  clock.server = ServerResources();  // the network has the server's links
  clock_ = make_clock(clock, run.pool(), run.real_time());
}

std::int64_t Places::foremost() const {
  const auto is_present = [](const Place& place) { return place.is_present != 0; };
  const bool any = std::ranges::any_of(places_, is_present);
  std::int64_t step = 0;
  for (const Place& place : places_) {
    if (!any || is_present(place)) step = std::max(step, place.step);
  }
  return step;
}

Nanoseconds Places::shortest_step() const {
  if (settings_.lock_step) return times_.of_slowest(0, 1);
  Nanoseconds shortest = times_.of(0, 0, 1);
  for (std::int64_t region = 1; region < size(); ++region) {
    shortest = std::min(shortest, times_.of(region, 0, 1));
  }
  return shortest;
}

std::vector<bool> Places::presence() const {
  std::vector<bool> presence;
  for (const Place& place : places_) presence.push_back(place.is_present != 0);
  return presence;
}

bool Places::loses_message(std::int64_t region, std::int64_t exchange) const {
  return settings_.lost > 0 && settings_.faults.concern(region) &&
         Stream(experiment_.seed, kLost, region, exchange).uniform() < settings_.lost;
}

// Jobs ------------------------------------------------------------------------------------------

void Places::send(std::int64_t region, RegionTask task, Bytes applied, const SharedCopy& shared,
                  Nanoseconds now) {
  Place& p = at(region);
  p.is_lost = task.goal > p.step && failing_step(region, p.step) == task.goal ? 1 : 0;
  Bytes payload;
  if (std::exchange(p.must_join, 0) != 0) {
    task.joins = p.joins;
    payload = shared.values();
  }
  payload.insert(payload.end(), applied.begin(), applied.end());
  p.stalled += now - p.time;
  p.time = now;
  p.task = std::move(task);
  p.payload = to_shared(std::move(payload));
  p.job = next_job_++;
  clock_->send(flight_of(region), job_of(region));
}

void Places::send_again(std::int64_t region) {
  clock_->send_again(flight_of(region), job_of(region));
}

Flight Places::flight_of(std::int64_t region) {
  const Place& p = at(region);
  Flight flight{.number = p.job, .endpoint = region};
  flight.is_answered = p.is_lost == 0;
  flight.sent = p.time;
  flight.compute = work_time(region, p.step, p.task.goal);
  flight.flops = std::max<std::int64_t>(1, times_.flops(region, p.step, p.task.goal));
  return flight;
}

Job Places::job_of(std::int64_t region) {
  const Place& p = at(region);
  Job job{.kind = kRegionJob, .number = p.job, .endpoint = region, .needs_resident = true};
  job.version = period_of(p.step);
  job.head = to_shared(p.task.encode());
  job.payload = p.payload;
  return job;
}

/// Of steps in one period.
Nanoseconds Places::work_time(std::int64_t region, std::int64_t begin, std::int64_t end) const {
  const Nanoseconds time =
      settings_.lock_step ? times_.of_slowest(begin, end) : times_.of(region, begin, end);
  const double slowdown = settings_.faults.fault(region, period_of(begin)).slowdown;
  return slowdown == 1 ? time : rounded(static_cast<double>(time) * slowdown);
}

SharedBytes Places::finished(const Clock::Event& event) {
  const std::int64_t region = event.flight.endpoint;
  const Nanoseconds now = event.flight.finish;
  Place& p = at(region);
  p.time = now;
  p.job = -1;
  p.payload.reset();
  if (!event.answer) {
    pass(region, p.task.goal, now, false);
    return nullptr;
  }
  const RegionResult result = RegionResult::decode(*event.answer->head);
  p.computed += event.flight.compute;
  p.samples += result.samples;
  p.tokens += result.tokens;
  p.loss_sum += result.loss_sum;
  p.peak_bytes = result.peak_bytes;
  for (std::int64_t& tokens : p.tokens_since) tokens += result.tokens;
  for (std::int64_t& steps : p.steps_since) steps += p.task.goal - p.step;
  pass(region, p.task.goal, now, true);
  return event.answer->payload;
}

/// The region is now at `step`; the steps up to there were trained or lost.
void Places::pass(std::int64_t region, std::int64_t step, Nanoseconds now, bool trained) {
  Place& p = at(region);
  while (p.step < step) {
    const std::int64_t end = (period_of(p.step) + 1) * settings_.schedule.period;
    const std::int64_t next = std::min(step, end);
    (trained ? p.steps : p.lost_steps) += next - p.step;
    p.step = next;
    if (next == end) record(region, period_of(end), now);
  }
}

// Failures --------------------------------------------------------------------------------------

std::optional<std::int64_t> Places::failing_step(std::int64_t region, std::int64_t step) const {
  const std::int64_t period = period_of(step);
  const InjectedFault fault = settings_.faults.fault(region, period);
  if (!fault.crashes && !fault.vanishes) return std::nullopt;
  Stream stream(experiment_.seed, kFailingStep, region, period);
  const std::int64_t length = settings_.schedule.period;
  const std::int64_t failing = period * length + 1 + stream.below(length);
  return failing > step ? std::optional(failing) : std::nullopt;
}

std::optional<Nanoseconds> Places::leave(std::int64_t region, Nanoseconds now, bool failed) {
  Place& p = at(region);
  p.is_present = 0;
  Nanoseconds back = now;
  if (failed && settings_.faults.fault(region, period_of(p.step - 1)).vanishes) {
    const auto length = static_cast<double>(times_.of(region, 0, settings_.schedule.period));
    back = later(back, rounded(settings_.faults.vanish_tasks() * length));
  }
  for (int change = 0; !is_available(region, back); ++change) {
    const auto next = settings_.availability.next_change(back);
    if (!next || change == kMostChanges) return std::nullopt;
    back = *next;
  }
  if (is_beyond_century(back)) return std::nullopt;
  return back;
}

void Places::join(std::int64_t region, Nanoseconds now) {
  Place& p = at(region);
  pass(region, std::max(p.step, foremost()), now, false);
  p.is_present = p.must_join = 1;
  ++p.joins;
  p.time = now;
  std::ranges::fill(p.tokens_since, 0);
  std::ranges::fill(p.steps_since, 0);
}

// Records ---------------------------------------------------------------------------------------

/// The region ends its period at `now`.
void Places::record(std::int64_t region, std::int64_t period, Nanoseconds now) {
  Place& p = at(region);
  const double loss = p.samples > 0 ? p.loss_sum / static_cast<double>(p.samples)
                                    : std::numeric_limits<double>::quiet_NaN();
  if (p.samples > 0) period_loss_ = loss;
  Row row(regions_schema());
  row.set("period", period)
      .set("region", region)
      .set("steps", p.steps)
      .set("lost_steps", p.lost_steps)
      .set("samples", p.samples)
      .set("tokens", p.tokens)
      .set("train_loss", loss)
      .set("reached_s", seconds(now))
      .set("compute_s", seconds(p.computed))
      .set("stall_s", seconds(p.stalled))
      .set("peak_bytes", p.peak_bytes);
  run_.records().append(row);
  p.steps = p.lost_steps = p.samples = p.tokens = 0;
  p.loss_sum = 0;
  p.computed = p.stalled = 0;
}

void Places::record_last() {
  for (std::int64_t region = 0; region < size(); ++region) {
    const Place& p = at(region);
    if (p.steps + p.lost_steps > 0) record(region, period_of(p.step) + 1, p.time);
  }
}

void Places::archive(Archive& archive) {
  archive.value("next_job", next_job_);
  archive.value("period_loss", period_loss_);
  archive_list(archive, "places", places_, archive_place);
  std::vector<Endpoint> endpoints(places_.size());
  std::iota(endpoints.begin(), endpoints.end(), 0);
  archive.open("residents");
  archive_residents(archive, run_.pool(), kRegion, endpoints);
  archive.close();
}

}  // namespace espalier::regions
