#pragma once
// The protocol `rounds`, for the engine.

#include "espalier/engine/protocol.h"
#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

/// The protocol with the methods and rules of a catalogue, which must outlive it.
Protocol protocol(const Catalogue& catalogue);

}  // namespace espalier::rounds
