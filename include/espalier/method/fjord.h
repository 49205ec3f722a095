#pragma once
// FjORD: ordered dropout. A client trains, in every batch, a width drawn from those that it can
// carry: the first units of every layer; its widest network teaches the narrower one. Source:
// specs, submodel baselines 1.8 (Horvath et al. 2021, port by paper authors).

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_fjord(Catalogue& catalogue);

}  // namespace espalier::rounds
