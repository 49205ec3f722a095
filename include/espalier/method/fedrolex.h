#pragma once
// FedRolex: as HeteroFL, but the kept window rolls by one unit a round: {(r + k) mod h, k < ceil(mu
// h)}, the same offset for all clients. Source: specs, submodel baselines 1.10 (FedRolex, authors'
// code).

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_fedrolex(Catalogue& catalogue);

}  // namespace espalier::rounds
