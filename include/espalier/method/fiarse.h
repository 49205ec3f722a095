#pragma once
// FIARSE: a client trains the weights of largest magnitude and sees zeros in place of the others.
// Unstructured: its networks need the memory, time and bytes of the whole model. Source: Wu et al.
// 2024 and the authors' code; docs/methods/fiarse.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_fiarse(Catalogue& catalogue);

}  // namespace espalier::rounds
