#pragma once
// Regions that exchange one fragment at a time while they train on: Streaming DiLoCo (Douillard et
// al. 2025) blends the merged fragment with its own values; CoCoDC (2025) moves it by its own
// progress, and chooses which fragment to send (docs/methods/cocodc.md).

#include "espalier/protocol/regions/protocol.h"

namespace espalier::regions {

void register_cocodc(Catalogue& catalogue);

}  // namespace espalier::regions
