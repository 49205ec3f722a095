#include "espalier/train/task_cost.h"

#include "espalier/train/optimizer.h"
#include "espalier/train/penalty.h"

namespace espalier {
namespace {

/// Bytes of the task's description, which is sent with the weights: the submodel's code and a few
/// numbers.
std::int64_t head_bytes(const Submodel& submodel) {
  constexpr std::int64_t kNumbers = 16;
  return static_cast<std::int64_t>(sizeof(std::int64_t) * (submodel.encode().size() + kNumbers));
}

}  // namespace

TrainingCost task_cost(const Experiment& experiment, const LocalObjective& objective,
                       const Submodel& submodel, std::int64_t batch) {
  return training_cost(experiment.model, submodel, batch, Optimizer::copies(experiment.train),
                       head_bytes(submodel) + objective.extra_bytes(experiment, submodel, batch));
}

TrainingCost search_cost(const Experiment& experiment, const SubmodelSearch& search,
                         const Submodel& submodel, std::int64_t batch) {
  const Stage stage = search.stage(experiment.model, submodel);
  return training_cost(experiment.model, submodel, batch, Optimizer::copies(experiment.train),
                       head_bytes(submodel) + stage.extra_bytes, &stage);
}

TrainingCost penalty_cost(const Experiment& experiment, const Submodel& submodel) {
  TrainingCost cost;
  if (!has_penalty(experiment.train)) return cost;
  const Penalty penalty(experiment.train, experiment.model,
                        *experiment.plans->buffer_layout(submodel, Packing::aligned));
  cost.step_flops = penalty.flops();
  BlockCost block;
  block.step_flops[static_cast<std::size_t>(Work::other)] = penalty.flops();
  block.moved_bytes = penalty.moved_bytes();
  cost.blocks.push_back(block);
  return cost;
}

}  // namespace espalier
