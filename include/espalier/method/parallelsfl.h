#pragma once
// ParallelSFL (Liao et al. 2024): clusters of workers whose labels mix well and whose speeds are
// alike; in each a worker holds the top, and the server only sees whole models. Each cluster makes
// as many iterations as fit into the round.

#include "espalier/protocol/split/protocol.h"

namespace espalier::split {

void register_parallelsfl(Catalogue& catalogue);

}  // namespace espalier::split
