#pragma once
// The protocol `split`, for the engine: workers hold the bottom of a model and their data, hosts
// hold tops; features go up and gradients come down in every iteration. Or workers train the whole
// model, and hosts take means. A method is a control module, which plans each round, and a set of
// option defaults.

#include <string>
#include <utility>
#include <vector>

#include "espalier/base/registry.h"
#include "espalier/engine/protocol.h"
#include "espalier/protocol/split/plan.h"

namespace espalier::split {

struct Method {
  std::string control = "fixed";
  std::vector<std::pair<std::string, std::string>> defaults{};
};

/// method/register.cpp fills it.
struct Catalogue {
  Registry<Method> methods{"method"};
  Registry<ControlFactory> controls{"control module"};
  OptionTable options;  ///< of all control modules
};

/// The protocol with the methods of a catalogue, which must outlive it.
Protocol protocol(const Catalogue& catalogue);

}  // namespace espalier::split
