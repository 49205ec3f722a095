#pragma once
// The protocols of a program, and every option of it: each part declares its own, and options.cpp
// calls them all.

#include <vector>

#include "espalier/config/config.h"
#include "espalier/config/options.h"
#include "espalier/engine/protocol.h"

namespace espalier {

using Protocols = std::vector<Protocol>;

/// The one that has the method of the configuration. InputError if there is no such method.
const Protocol& protocol_of(const Protocols& protocols, const Config& config);

OptionTable all_options(const Protocols& protocols);

}  // namespace espalier
