#pragma once
// Co-S2P: every client holds as many leading blocks as its device can carry, keeps of each layer
// the units that a mask chooses, which it learns on its own data, and teaches its shallower
// classifiers by its deepest one; a semi-asynchronous server weighs updates by their size over how
// far the model has moved since. Source: specs, cos2p (Li et al. 2024 and the authors' code, with
// the corrections of its section 6).

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_cos2p(Catalogue& catalogue);

}  // namespace espalier::rounds
