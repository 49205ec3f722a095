#pragma once
// Federated Dropout: each task trains a random subset of the units of every layer, drawn for each
// layer of its own; mean over the holders. Source: Caldas et al. 2018;
// docs/methods/federated_dropout.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_federated_dropout(Catalogue& catalogue);

}  // namespace espalier::rounds
