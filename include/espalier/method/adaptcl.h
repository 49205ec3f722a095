#pragma once
// AdaptCL: every client's submodel shrinks step by step until its update takes as long as that of
// the fastest client; the server learns the sizes from the times that it observes. Source: Zhou et
// al. 2021 (abstract only); docs/methods/adaptcl.md says what is our reconstruction.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_adaptcl(Catalogue& catalogue);

}  // namespace espalier::rounds
