#pragma once
// FedAvg with an optimiser on the server (protocol/rounds/server_optimizer.h): FedAvgM (Hsu et al.
// 2019), FedAdam, FedYogi and FedAdagrad (Reddi et al. 2021); docs/methods/server_optimizers.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_server_optimizers(Catalogue& catalogue);

}  // namespace espalier::rounds
