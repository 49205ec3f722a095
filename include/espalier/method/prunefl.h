#pragma once
// PruneFL as it stands among the baselines of Co-S2P's code: one window of leading units for good,
// averaged over its holders. The published method prunes single weights and is another one; see
// docs/methods/prunefl.md. Source: specs, cos2p 4.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_prunefl(Catalogue& catalogue);

}  // namespace espalier::rounds
