#pragma once
// A region on its rank: a replica of the model that trains without pause, and the shared copy from
// which its differences are taken. It is a resident (engine/resident.h); its jobs say to which step
// it trains, what it applies before and what it sends after.

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "espalier/device/memory.h"
#include "espalier/engine/job.h"
#include "espalier/engine/resident.h"
#include "espalier/protocol/regions/arrival.h"
#include "espalier/protocol/regions/codec.h"
#include "espalier/protocol/regions/fragments.h"
#include "espalier/train/trainer.h"

namespace espalier::regions {

inline constexpr JobKind kRegionJob = job_kind("regions.train");
inline constexpr ResidentKind kRegion = job_kind("regions.region");

/// What regions do, the same for all.
struct RegionSettings {
  TrainSettings train;  ///< with the schedule in steps
  ArrivalSettings arrival;
  Codec codec = Codec::float32;
  /// Regions exchange the gradients of every step instead of values, and each steps along the mean.
  bool gradients = false;
  /// Each region takes differences from its own values of the last exchange, not from the shared
  /// copy.
  bool local_base = false;
  /// Evaluations are of the mean of the regions' replicas, not of the shared copy.
  bool shows_replicas = false;
  std::vector<Fragment> fragments;

  bool keeps_sent_values() const { return local_base || arrival.needs_sent_values(); }
  /// Whether differences travel. With float32 a region sends its values, from which the difference
  /// follows without rounding.
  bool sends_differences() const { return !gradients && (local_base || codec != Codec::float32); }
};
/// regions.base.
void declare_region_options(OptionTable& table);
/// `experiment` must outlive the result. InputError if settings contradict each other.
RegionSettings region_settings(const Config& config, const Experiment& experiment);

/// The work of one job, in this order: join, apply, train up to a step, send.
struct RegionTask {
  struct Applied {
    std::int64_t exchange = 0, fragment = 0;
    std::int64_t steps = 0;  ///< since the region sent it
    std::int64_t keeps = 0;  ///< 1: the region goes on with its own values (its message was lost)
  };
  struct Sent {
    std::int64_t exchange = 0, fragment = 0;
  };
  std::int64_t joins = 0;  ///< > 0: takes the whole shared copy, for the n-th time
  std::vector<Applied> applied;
  std::int64_t from = 0, goal = 0;  ///< steps: of the region before the job and after it
  std::vector<Sent> sent;
  std::int64_t shows = 0;  ///< 1: sends its whole replica too

  Bytes encode() const;
  static RegionTask decode(const Bytes& bytes);
};

struct RegionResult {
  std::int64_t samples = 0, tokens = 0;  ///< trained in this job
  double loss_sum = 0;                   ///< over the samples
  std::int64_t peak_bytes = 0;           ///< so far

  Bytes encode() const;
  static RegionResult decode(const Bytes& bytes);
};

class Region final : public Resident {
 public:
  /// `settings` and `experiment` must outlive it.
  Region(const Experiment& experiment, const RegionSettings& settings, std::int64_t region);
  /// The first part of job number `job`; does nothing if it is repeated. `payload`: the model (to
  /// join), then the applied fragments, dense.
  void begin(std::int64_t job, const RegionTask& task, const Bytes& payload);
  /// Trains one batch; false if the goal is reached.
  bool step(const RegionTask& task);
  /// The replica, dense, if the task shows it; then the sent fragments, encoded.
  Bytes finish(const RegionTask& task);
  RegionResult result() const;
  void archive(Archive& archive) override;

 private:
  std::shared_ptr<const BufferLayout> dense_layout() const;  // of the whole model
  void join(std::span<const float> model);
  void apply(const RegionTask::Applied& applied, std::span<const float> shared);
  std::vector<float> values_of(const Fragment& fragment, const float* buffer) const;
  void set_values(const Fragment& fragment, std::span<const float> values, float* buffer) const;
  void archive_values(Archive& archive, const char* name, float* buffer) const;

  const Experiment& experiment_;
  const RegionSettings& settings_;
  std::int64_t region_;
  std::shared_ptr<MemoryAccount> account_;
  LocalObjective objective_;
  Trainer trainer_;
  /// From which differences are taken; none if gradients are exchanged: all replicas are equal.
  Parameters shared_;
  /// Own values when they were sent, until the fragment is applied or sent again.
  struct Kept {
    std::int64_t exchange = 0;
    at::Tensor values;
  };
  std::map<std::int64_t, Kept> kept_;  // by fragment
  std::int64_t joined_ = 0;            // how often
  std::int64_t step_ = 0;
  std::int64_t epoch_ = 0;        // over its samples, since the beginning
  std::int64_t peak_before_ = 0;  // memory before a resume
  RegionResult result_;
  std::int64_t job_ = -1;  // that result_ is about
};

/// Adds the jobs and the residents of regions. All arguments must outlive them.
void add_region_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                     std::shared_ptr<const RegionSettings> settings);

}  // namespace espalier::regions
