#pragma once
// FedProx: a proximal term keeps local weights near the received ones,
//   w <- w - lr (g + mu (w - w_received)).   Source: specs, submodel baselines 1.2 (FedProx,
//   authors' code).

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_fedprox(Catalogue& catalogue);

}  // namespace espalier::rounds
