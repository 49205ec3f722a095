#pragma once
// FedNova: differences are divided by the length of the local training before they are averaged, so
// that clients with more batches do not pull the model towards their own optimum. Source: Wang et
// al., NeurIPS 2020; docs/methods/fednova.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

/// ||a||_1 of `steps` batches: the sum of the weights with which the gradients of a task's batches
/// enter its difference, over the learning rate. SGD: steps. With momentum rho, from zero:
/// (steps - rho (1 - rho^steps) / (1 - rho)) / (1 - rho) (Wang et al. 2020). With Nesterov's
/// momentum: steps + rho times that (ours, from the same sum).
double gradient_weights(std::int64_t steps, double momentum, bool nesterov);

void register_fednova(Catalogue& catalogue);

}  // namespace espalier::rounds
