#pragma once
// DepthFL: clients hold the leading blocks that they can carry, with a classifier at the end of
// each section, and all classifiers of a client teach each other. Source: specs, submodel
// baselines 1.12 (Kim et al. 2023, port by an author).

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_depthfl(Catalogue& catalogue);

}  // namespace espalier::rounds
