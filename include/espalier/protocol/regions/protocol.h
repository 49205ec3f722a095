#pragma once
// The protocol `regions`, for the engine: regions that train without pause and exchange fragments
// of their differences to a shared copy. A method is a set of option defaults; every part of it is
// an option (regions.*) and can be replaced in an input file.

#include <string>
#include <utility>
#include <vector>

#include "espalier/base/registry.h"
#include "espalier/engine/protocol.h"

namespace espalier::regions {

struct Method {
  std::vector<std::pair<std::string, std::string>> defaults;
};
/// method/register.cpp fills it.
using Catalogue = Registry<Method>;

/// The protocol with the methods of a catalogue, which must outlive it.
Protocol protocol(const Catalogue& catalogue);

}  // namespace espalier::regions
