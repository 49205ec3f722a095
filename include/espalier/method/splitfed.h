#pragma once
// SplitFed (Thapa et al. 2022): all workers train in step with fixed batch sizes. Version 1 has a
// top for each worker, version 2 one top for all.

#include "espalier/protocol/split/protocol.h"

namespace espalier::split {

/// split.weights: what a worker's bottom weighs in the mean.
enum class WorkerWeights { samples, uniform, batch };
WorkerWeights worker_weights(const Config& config);
double weight_of(WorkerWeights weights, const Experiment& experiment, std::int64_t client,
                 std::int64_t batch);

void register_splitfed(Catalogue& catalogue);

}  // namespace espalier::split
