#pragma once
// FedAvg: every client trains the full model, and the server computes the sample-weighted mean.
// Other methods replace its rules one by one. Source: McMahan et al. 2017; docs/methods/fedavg.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_fedavg(Catalogue& catalogue);

}  // namespace espalier::rounds
