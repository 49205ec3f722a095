#pragma once
// Co-S2P: every client holds the leading blocks that its capability allows. A mask that it learns
// on its own data selects the units of each layer, and its deepest classifier teaches the shallower
// ones. A semi-asynchronous server weights an update by its size over the drift of the model since
// its base version. Source: Li et al. 2024 and the authors' code; docs/methods/cos2p.md has our
// corrections.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_cos2p(Catalogue& catalogue);

}  // namespace espalier::rounds
