#pragma once
// The costs of a task for its client: the cost model (model/cost.h) with the experiment's
// optimiser, the objective's own memory, and the task's description.

#include "espalier/model/cost.h"
#include "espalier/train/search.h"

namespace espalier {

/// Costs of training the submodel with batches of `batch` samples. The memory bound holds for
/// everything that the task's memory scope counts.
TrainingCost task_cost(const Experiment&, const LocalObjective&, const Submodel&,
                       std::int64_t batch);
/// The same for a search in the submodel.
TrainingCost search_cost(const Experiment&, const SubmodelSearch&, const Submodel&,
                         std::int64_t batch);

}  // namespace espalier
