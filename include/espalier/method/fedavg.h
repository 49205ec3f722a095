#pragma once
// FedAvg: every client trains the full model, the server takes the sample-weighted mean. Its rules
// are the plain ones that other methods replace one by one. Source: specs, submodel baselines 1.1.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_fedavg(Catalogue& catalogue);

}  // namespace espalier::rounds
