#pragma once
// What there is to choose from: rules by name, and methods as compositions of them. A method's file
// adds its rules and itself here; method/register.cpp calls each file once. Nothing else in the
// program names a method.

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "espalier/base/registry.h"
#include "espalier/protocol/rounds/rules.h"
#include "espalier/train/search.h"

namespace espalier {

/// Option defaults, key and value.
using Defaults = std::vector<std::pair<std::string, std::string>>;

/// A published method: one rule of each sort, and the defaults it brings.
struct Method {
  std::string submodel = "full";
  std::string window = "synchronous";
  std::string merge = "average";
  std::string objective = "cross_entropy";
  std::string search{};  ///< for assignments that ask for one
  Defaults defaults{};   ///< further option defaults
};

/// A named setting of the window: defaults for window.* options, which may depend on what the input
/// says of the clients.
using WindowPreset = std::function<Defaults(const Config&)>;

struct Catalogue {
  Registry<Method> methods{"method"};
  Registry<SubmodelFactory> submodels{"submodel rule"};
  Registry<WindowPreset> windows{"window"};
  Registry<MergeFactory> merges{"merge rule"};
  Registry<ObjectiveFactory> objectives{"objective"};
  Registry<SearchFactory> searches{"submodel search"};
  OptionTable options;  ///< of all rules
};

/// The rules that a run uses, by name.
struct RuleNames {
  std::string method, submodel, window, merge, objective;
  std::string search;  ///< empty: none
};

/// method.name, and one option for each sort of rule.
void declare_method_options(OptionTable& table);
/// Which rules the configuration asks for; brings the defaults of method and window into `config`.
RuleNames choose_rules(const Catalogue& catalogue, Config& config);

}  // namespace espalier
