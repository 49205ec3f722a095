#pragma once
// RAM-Fed (Wang et al. 2023), in two readings. Every client has a window of units with a begin of
// its own. Updates are averaged over their holders (a baseline in the code of Co-S2P), or over all
// clients, with the last difference of a client for parameters that it did not train now (the
// group's own code). docs/methods/ramfed.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_ramfed(Catalogue& catalogue);

}  // namespace espalier::rounds
