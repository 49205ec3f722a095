#pragma once
// HeteroFL: a client of width mu trains the first ceil(mu h) units of every layer; masked average;
// scaler and masked cross-entropy. Source: Diao et al. 2021 and the authors' code;
// docs/methods/heterofl.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_heterofl(Catalogue& catalogue);

}  // namespace espalier::rounds
