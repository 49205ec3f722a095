#pragma once
// MergeSFL (Liao et al. 2024): one top steps on the merged features of its workers, whose batch
// sizes, and who of them trains, a control module chooses in each round. AdaSFL is the same without
// merging and selection.

#include "espalier/protocol/split/protocol.h"

namespace espalier::split {

void register_mergesfl(Catalogue& catalogue);

}  // namespace espalier::split
