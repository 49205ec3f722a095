#pragma once
// FedProx: a proximal term keeps local weights near the received ones,
//   w <- w - lr (g + mu (w - w_received)).
// Source: Li et al. 2020 and the authors' code; docs/methods/fedprox.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_fedprox(Catalogue& catalogue);

}  // namespace espalier::rounds
