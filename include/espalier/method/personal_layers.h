#pragma once
// FedAvg with personal parameters (protocol/rounds/personal.h): FedPer keeps each client's head
// (Arivazhagan et al. 2019), FedBN its norms (Li et al. 2021); docs/methods/personal.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_personal_layers(Catalogue& catalogue);

}  // namespace espalier::rounds
