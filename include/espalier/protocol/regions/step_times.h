#pragma once
// The emulated time of a region's training steps, by the cost model.

#include <cstdint>
#include <map>
#include <vector>

#include "espalier/model/cost.h"
#include "espalier/train/experiment.h"

namespace espalier::regions {

/// The training steps of a region after step `begin`, up to step `end`, by size of batch.
std::vector<Workload::Passes> passes_between(const Experiment& experiment, std::int64_t region,
                                             std::int64_t begin, std::int64_t end);

class StepTimes {
 public:
  /// `experiment` must outlive it.
  explicit StepTimes(const Experiment& experiment);
  /// Of the region's steps after step `begin`, up to step `end`, on its own device.
  Nanoseconds of(std::int64_t region, std::int64_t begin, std::int64_t end) const;
  /// Operations of these steps.
  std::int64_t flops(std::int64_t region, std::int64_t begin, std::int64_t end) const;
  /// The same steps on the slowest region.
  Nanoseconds of_slowest(std::int64_t begin, std::int64_t end) const;

 private:
  const TrainingCost& cost_of(std::int64_t batch) const;
  std::vector<Steps> steps(std::int64_t region, std::int64_t begin, std::int64_t end) const;

  const Experiment& experiment_;
  TrainingCost penalty_;                                // of one step
  mutable std::map<std::int64_t, TrainingCost> costs_;  // by size of batch
};

}  // namespace espalier::regions
