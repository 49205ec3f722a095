#pragma once
// SplitFed (Thapa et al. 2022): all workers train in step with fixed batch sizes. Version 1 has a
// top for each worker, version 2 one top for all.

#include "espalier/protocol/split/protocol.h"

namespace espalier::split {

void register_splitfed(Catalogue& catalogue);

}  // namespace espalier::split
