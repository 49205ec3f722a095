#pragma once
// The list of protocols and of their methods, one line each.

#include <vector>

#include "espalier/engine/protocol.h"
#include "espalier/protocol/regions/protocol.h"
#include "espalier/protocol/rounds/catalogue.h"
#include "espalier/protocol/split/protocol.h"

namespace espalier {

/// Every method and rule of `rounds`.
const rounds::Catalogue& rounds_catalogue();
/// Every method of `regions`.
const regions::Catalogue& regions_catalogue();
/// Every method and control module of `split`.
const split::Catalogue& split_catalogue();

std::vector<Protocol> protocols();

}  // namespace espalier
