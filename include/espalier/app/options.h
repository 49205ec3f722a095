#pragma once
// The protocols of a program and all of its options: each part declares its own, and options.cpp
// calls all parts.

#include <vector>

#include "espalier/config/config.h"
#include "espalier/config/options.h"
#include "espalier/engine/protocol.h"

namespace espalier {

using Protocols = std::vector<Protocol>;

/// The protocol of the configuration's method. InputError if there is no such method.
const Protocol& protocol_of(const Protocols& protocols, const Config& config);

OptionTable all_options(const Protocols& protocols);

}  // namespace espalier
