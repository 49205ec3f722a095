#pragma once
// SplitMix: the wide network is an ensemble of narrow ones, and each client trains as many of them
// as its budget allows. Source: Hong et al. 2022 and the authors' code; docs/methods/splitmix.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_splitmix(Catalogue& catalogue);

}  // namespace espalier::rounds
