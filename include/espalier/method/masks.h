#pragma once
// Masks: the units of each layer that a client trains, learned on its own data. Every unit has a
// logit; in each batch a draw from the logit's sigmoid switches its outputs on or off, while the
// weights are frozen. Source: the authors' code of Co-S2P (Li et al. 2024); docs/methods/cos2p.md.
// `random` and `magnitude` are ablations.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

/// The search "masks" and its options.
void register_masks(Catalogue& catalogue);

}  // namespace espalier::rounds
