#pragma once
// HeteroFL: a client of width share mu takes the first ceil(mu h) units of every layer; masked
// average; scaler and masked cross-entropy. Source: specs, submodel baselines 1.7 (HeteroFL,
// authors' code).

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_heterofl(Catalogue& catalogue);

}  // namespace espalier::rounds
