#pragma once
// DepthFL: clients hold the leading blocks that their capability allows, with a classifier at the
// end of each section, and all classifiers of a client teach each other. Source: Kim et al. 2023
// (and the port by an author); docs/methods/depthfl.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_depthfl(Catalogue& catalogue);

}  // namespace espalier::rounds
