#pragma once
// FedRolex: as HeteroFL, but the kept window rolls by one unit a round: {(r + k) mod h, k < ceil(mu
// h)}, the same offset for all clients. Source: Alam et al. 2022 and the authors' code;
// docs/methods/fedrolex.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_fedrolex(Catalogue& catalogue);

}  // namespace espalier::rounds
