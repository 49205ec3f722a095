#pragma once
// The regions as the server sees them: the step that each has reached, its job, what it did in the
// present period, and whether it is there. Both ways of exchanging fragments use it.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/engine/clock.h"
#include "espalier/engine/run.h"
#include "espalier/protocol/regions/settings.h"
#include "espalier/protocol/regions/step_times.h"

namespace espalier::regions {

/// A region.
struct Place {
  std::int64_t step = 0;        ///< reached
  Nanoseconds time = 0;         ///< at which it was reached, or at which its job began
  std::int64_t is_present = 1;  ///< 0: it crashed or is away
  std::int64_t joins = 1;       ///< how often it took the whole shared copy
  std::int64_t must_join = 1;   ///< the next job brings the shared copy
  // Its outstanding job:
  std::int64_t job = -1;     ///< number; -1: none
  std::int64_t is_lost = 0;  ///< the region fails before its end
  RegionTask task;
  SharedBytes payload;
  // Of the present period:
  std::int64_t steps = 0, lost_steps = 0, samples = 0, tokens = 0;
  double loss_sum = 0;
  Nanoseconds computed = 0, stalled = 0;
  std::int64_t peak_bytes = 0;
  // By fragment:
  std::vector<std::int64_t> tokens_since, steps_since;  ///< its last exchange

  bool is_ready() const { return job < 0 && is_present != 0; }
};

/// No region is present, and none will come back.
struct NoRegion : InputError {
  NoRegion()
      : InputError(
            "no region is available, now or later: give the devices a higher availability, or "
            "another clients.availability_trace") {}
};

class Places {
 public:
  /// All arguments must outlive it.
  Places(const Experiment& experiment, const ServerSettings& settings, Run& run);

  std::int64_t size() const { return std::ssize(places_); }
  Place& at(std::int64_t region) { return places_[static_cast<std::size_t>(region)]; }
  auto begin() { return places_.begin(); }
  auto end() { return places_.end(); }
  auto begin() const { return places_.begin(); }
  auto end() const { return places_.end(); }
  Clock& clock() { return *clock_; }
  /// Mean training loss of the last period that a region ended.
  double period_loss() const { return period_loss_; }
  /// The largest step of a region that is present; if none is, the largest that any has reached,
  /// because fragments were chosen up to there.
  std::int64_t foremost() const;

  /// Of the fastest region, in emulated time.
  Nanoseconds shortest_step() const;
  /// For each region, whether it is present.
  std::vector<bool> presence() const;
  /// Whether the region's message of this exchange is lost (faults.lost).
  bool loses_message(std::int64_t region, std::int64_t exchange) const;

  /// Sends the region's next job, at `now`. `applied`: the merged values that it applies.
  void send(std::int64_t region, RegionTask task, Bytes applied, const SharedCopy& shared,
            Nanoseconds now);
  /// The job that was outstanding at a checkpoint.
  void send_again(std::int64_t region);
  /// The region has done its job, or failed: counts its steps. Returns what it sent; null if it
  /// failed.
  SharedBytes finished(const Clock::Event& event);

  /// The step, after `step` and in its period, before whose end the region fails.
  std::optional<std::int64_t> failing_step(std::int64_t region, std::int64_t step) const;
  bool is_available(std::int64_t region, Nanoseconds now) const {
    return settings_.availability.available(region, now);
  }
  /// The region is no longer present from `now` on, because it failed or is not available. Returns
  /// when it will be back; none: never.
  std::optional<Nanoseconds> leave(std::int64_t region, Nanoseconds now, bool failed);
  /// The region is back, at the step of the foremost region, and takes the shared copy.
  void join(std::int64_t region, Nanoseconds now);

  /// Records the periods that have not ended.
  void record_last();
  void archive(Archive& archive);

 private:
  std::int64_t period_of(std::int64_t step) const { return step / settings_.schedule.period; }
  Flight flight_of(std::int64_t region);
  Job job_of(std::int64_t region);
  Nanoseconds work_time(std::int64_t region, std::int64_t begin, std::int64_t end) const;
  void pass(std::int64_t region, std::int64_t step, Nanoseconds now, bool trained);
  void record(std::int64_t region, std::int64_t period, Nanoseconds now);

  const Experiment& experiment_;
  const ServerSettings& settings_;
  Run& run_;
  StepTimes times_;
  std::unique_ptr<Clock> clock_;
  std::vector<Place> places_;
  std::int64_t next_job_ = 0;
  double period_loss_ = 0;
};

}  // namespace espalier::regions
