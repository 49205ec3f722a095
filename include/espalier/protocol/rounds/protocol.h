#pragma once
// `rounds` as the engine sees it.

#include "espalier/engine/protocol.h"
#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

/// With the methods and rules of a catalogue, which must outlive it.
Protocol protocol(const Catalogue& catalogue);

}  // namespace espalier::rounds
