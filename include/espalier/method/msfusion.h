#pragma once
// MSfusion: many weak participants train one model, each a window of its units that moves between
// rounds and lies apart from the others'. Source: Xie and Li 2024, of which only the abstract and
// reviews were seen; docs/methods/msfusion.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_msfusion(Catalogue& catalogue);

}  // namespace espalier::rounds
