#pragma once
// Masks: which units of each layer a client trains, learnt on its own data. Every unit has a logit;
// in each batch its outputs are switched on or off by a draw from the logit's sigmoid, while the
// weights stand still. Source: specs, cos2p 2.2 (Co-S2P, authors' code); `random` and `magnitude`
// are its ablations.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

/// The search "masks" and its options.
void register_masks(Catalogue& catalogue);

}  // namespace espalier::rounds
