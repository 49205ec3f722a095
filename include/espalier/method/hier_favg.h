#pragma once
// HierFAVG (Liu et al. 2020): workers train the whole model; the host of their cluster averages it
// every few batches, and the server averages the clusters' means after each round.

#include "espalier/protocol/split/protocol.h"

namespace espalier::split {

void register_hier_favg(Catalogue& catalogue);

}  // namespace espalier::split
