#pragma once
// The asynchronous relatives of FedAvg: FedAsync mixes each update in as it arrives, FedBuff
// averages the differences of K of them, SSP adds each and bounds how far clients run ahead, and
// semi_async is FedAvg's mean over whoever is there. Source: specs, submodel baselines 1.3 to 1.5.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_asynchronous(Catalogue& catalogue);

}  // namespace espalier::rounds
