#include "espalier/protocol/regions/step_times.h"

#include <algorithm>

#include "espalier/device/emulated_time.h"
#include "espalier/train/task_cost.h"

namespace espalier::regions {

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

StepTimes::StepTimes(const Experiment& experiment)
    : experiment_(experiment),
      penalty_(penalty_cost(experiment, Submodel::full(*experiment.model.layout))) {}

const TrainingCost& StepTimes::cost_of(std::int64_t batch) const {
  const auto found = costs_.find(batch);
  if (found != costs_.end()) return found->second;
  const Submodel full = Submodel::full(*experiment_.model.layout);
  return costs_.emplace(batch, task_cost(experiment_, LocalObjective(), full, batch)).first->second;
}

std::vector<Steps> StepTimes::steps(std::int64_t region, std::int64_t begin,
                                    std::int64_t end) const {
  std::vector<Steps> steps;
  if (begin == end) return steps;
  for (const Workload::Passes& passes : passes_between(experiment_, region, begin, end)) {
    steps.push_back({cost_of(passes.size), passes.count});
  }
  steps.push_back({penalty_, end - begin});
  return steps;
}

Nanoseconds StepTimes::of(std::int64_t region, std::int64_t begin, std::int64_t end) const {
  return compute_time(experiment_.fleet->device(region), steps(region, begin, end));
}

std::int64_t StepTimes::flops(std::int64_t region, std::int64_t begin, std::int64_t end) const {
  return flops_of(steps(region, begin, end));
}

Nanoseconds StepTimes::of_slowest(std::int64_t begin, std::int64_t end) const {
  Nanoseconds longest = 0;
  for (std::int64_t region = 0; region < experiment_.fleet->size(); ++region) {
    longest = std::max(longest, of(region, begin, end));
  }
  return longest;
}

}  // namespace espalier::regions
