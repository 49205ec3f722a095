#pragma once
// PruneFL as published: one mask of single weights for all clients, adjusted by squared gradients
// over time. Unstructured: its networks need the memory, time and bytes of the whole model. Source:
// Jiang et al. 2022 and the authors' code; docs/methods/prunefl_published.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_prunefl_published(Catalogue& catalogue);

}  // namespace espalier::rounds
