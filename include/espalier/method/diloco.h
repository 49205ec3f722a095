#pragma once
// Regions that send all their parameters at the end of a period and wait: DiLoCo (Douillard et al.
// 2023), local SGD, its case without an outer optimiser, and data parallel training, which
// exchanges gradients in every step (docs/methods/diloco.md).

#include "espalier/protocol/regions/protocol.h"

namespace espalier::regions {

void register_diloco(Catalogue& catalogue);

}  // namespace espalier::regions
