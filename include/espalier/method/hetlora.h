#pragma once
// HetLoRA: adapters of a rank for each client. Sources: Cho et al. 2024, Hu et al. 2022 (LoRA);
// docs/methods/hetlora.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_hetlora(Catalogue& catalogue);

}  // namespace espalier::rounds
