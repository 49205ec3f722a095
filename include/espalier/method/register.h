#pragma once
// The list of methods: one line each.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier {

/// Every rule and method of the program.
const rounds::Catalogue& catalogue();

}  // namespace espalier
