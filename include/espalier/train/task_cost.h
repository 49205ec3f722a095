#pragma once
// What a task costs its client: the cost model (model/cost.h) with the experiment's optimiser, the
// objective's own memory, and the task's description.

#include "espalier/model/cost.h"
#include "espalier/train/search.h"

namespace espalier {

/// Of training with this submodel, batches of `batch` samples: the bound holds for all that the
/// task's memory scope counts meanwhile.
TrainingCost task_cost(const Experiment&, const LocalObjective&, const Submodel&,
                       std::int64_t batch);
/// The same of a search in it.
TrainingCost search_cost(const Experiment&, const SubmodelSearch&, const Submodel&,
                         std::int64_t batch);

}  // namespace espalier
