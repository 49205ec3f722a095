#pragma once
// PruneFL as a baseline in the code of Co-S2P (Li et al. 2024): the same leading units during the
// whole run, averaged over their holders. The published method (Jiang et al. 2022) prunes single
// weights instead; see docs/methods/prunefl.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_prunefl(Catalogue& catalogue);

}  // namespace espalier::rounds
