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
/// The penalties of one step of the optimiser, which act on the whole submodel however many passes
/// the step's batch makes. All zero if there are none. They are one block for a roofline, and need
/// no memory.
TrainingCost penalty_cost(const Experiment&, const Submodel&);

}  // namespace espalier
