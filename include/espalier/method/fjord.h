#pragma once
// FjORD: ordered dropout. In every batch a client trains the first units of each layer, up to a
// width drawn from the widths of its submodel; its widest network teaches the narrower one. Source:
// Horvath et al. 2021 (and the port by authors); docs/methods/fjord.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_fjord(Catalogue& catalogue);

}  // namespace espalier::rounds
