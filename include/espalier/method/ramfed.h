#pragma once
// RAM-Fed, in the two readings that there are of it: windows that stand at a place of their own for
// every client, averaged over their holders (as a baseline in the code of Co-S2P), and averaged
// over all clients, with the last known difference of each where it trained none now (as in the
// group's own code). Source: specs, cos2p 4 (Wang et al. 2023).

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_ramfed(Catalogue& catalogue);

}  // namespace espalier::rounds
