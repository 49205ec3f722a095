#pragma once
// MOON: FedAvg whose clients keep the representations of their samples close to the received
// model's and away from their own previous model's. Source: Li et al. 2021; docs/methods/moon.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_moon(Catalogue& catalogue);

}  // namespace espalier::rounds
