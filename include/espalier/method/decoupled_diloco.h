#pragma once
// Decoupled DiLoCo (2026): regions that never wait. A server asks them for fragments, merges the
// values of those that answer in time, and sends the result to all
// (docs/methods/decoupled_diloco.md).

#include "espalier/protocol/regions/protocol.h"

namespace espalier::regions {

void register_decoupled_diloco(Catalogue& catalogue);

}  // namespace espalier::regions
