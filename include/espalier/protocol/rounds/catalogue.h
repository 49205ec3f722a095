#pragma once
// The catalogue of rules by name, and of methods that combine them. Each method's file adds its
// rules and the method; method/register.cpp calls each file once. Nothing else in the program names
// a method.

#include <string>
#include <utility>
#include <vector>

#include "espalier/base/registry.h"
#include "espalier/protocol/rounds/rules.h"

namespace espalier::rounds {

/// Option defaults, key and value.
using Defaults = std::vector<std::pair<std::string, std::string>>;

/// A published method: one rule of each kind, and its option defaults.
struct Method {
  std::string submodel = "full";
  std::string window = "synchronous";
  std::string merge = "average";
  std::string objective = "cross_entropy";
  Defaults defaults{};  ///< further option defaults
};

/// A submodel rule, and the search that it needs.
struct SubmodelOffer {
  RuleFactory<SubmodelRule> make;
  std::string search{};  ///< the search of its clients, unless method.search names another;
                         ///< empty: they do not search
};

/// A named setting of the window: defaults for window.* options, which may depend on the options of
/// the clients.
using WindowPreset = std::function<Defaults(const Config&)>;

struct Catalogue {
  Registry<Method> methods{"method"};
  Registry<SubmodelOffer> submodels{"submodel rule"};
  Registry<WindowPreset> windows{"window"};
  Registry<RuleFactory<MergeRule>> merges{"merge rule"};
  Registry<RuleFactory<LocalObjective>> objectives{"objective"};
  Registry<RuleFactory<SubmodelSearch>> searches{"submodel search"};
  OptionTable options;  ///< of all rules
};

/// The rules that a run uses, by name.
struct RuleNames {
  std::string method, submodel, window, merge, objective;
  std::string search;  ///< empty: no client searches
};

/// One option for each kind of rule.
void declare_method_options(OptionTable& table);
/// The rules that the configuration chooses. InputError if a rule does not exist, or if two rules
/// do not work together.
RuleNames rule_names(const Catalogue& catalogue, const Config& config);
/// Sets the defaults of method and window in `config`. Errors as above.
void set_defaults(const Catalogue& catalogue, Config& config);
/// Builds the rules: InputError if a rule does not work with the model or the settings.
/// Configuration and experiment must outlive the rules.
ServerRules build_rules(const Catalogue& catalogue, const RuleNames& names, const Config& config,
                        const Experiment& experiment);
ClientRules client_rules(const Catalogue& catalogue, const RuleNames& names);

}  // namespace espalier::rounds
