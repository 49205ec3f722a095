#pragma once
// SCAFFOLD, option II: a control variate on the server and one on each client estimate the
// gradients of all and of one; each local step is corrected by their difference. Source:
// Karimireddy et al., ICML 2020, Algorithm 1; docs/methods/scaffold.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_scaffold(Catalogue& catalogue);

}  // namespace espalier::rounds
