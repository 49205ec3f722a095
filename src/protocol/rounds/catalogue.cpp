#include "espalier/protocol/rounds/catalogue.h"

#include "espalier/protocol/rounds/personal.h"
#include "espalier/protocol/rounds/server_optimizer.h"
#include "espalier/protocol/rounds/task_costs.h"
#include "espalier/train/task_cost.h"

namespace espalier::rounds {

void declare_method_options(OptionTable& table) {
  table.add({"method.submodel", OptionType::text, "", "submodel rule; empty = the method's own"});
  table.add({"method.window", OptionType::text, "", "window; empty = the method's own"});
  table.add({"method.merge", OptionType::text, "", "merge rule; empty = the method's own"});
  table.add(
      {"method.objective", OptionType::text, "", "local objective; empty = the method's own"});
  table.add({"method.search", OptionType::text, "",
             "search of a submodel rule whose clients search (masked_depth); empty = the rule's "
             "own (masks)"});
  declare_personal_options(table);
}

namespace {

/// A search that no client does is an error of the input, most likely in the submodel rule.
void refuse_idle_search(const Catalogue& catalogue, const RuleNames& names) {
  if (names.search.empty() || !catalogue.submodels.get(names.submodel).value.search.empty()) return;
  std::string with_search;
  for (const auto& item : catalogue.submodels.items()) {
    if (!item.value.search.empty()) with_search += (with_search.empty() ? "" : " or ") + item.name;
  }
  throw InputError(formatted(
      "method.search = {}: clients of method.submodel = {} do not search; leave method.search out, "
      "or set method.submodel = {}",
      names.search, names.submodel, with_search));
}

}  // namespace

RuleNames rule_names(const Catalogue& catalogue, const Config& config) {
  const auto& [name, help, method] = catalogue.methods.get(config.text("method.name"));
  const auto chosen = [&](const char* key, const std::string& own) {
    const std::string other = config.text(key);
    return other.empty() ? own : other;
  };
  RuleNames names{name,
                  chosen("method.submodel", method.submodel),
                  chosen("method.window", method.window),
                  chosen("method.merge", method.merge),
                  chosen("method.objective", method.objective),
                  {}};
  names.search = chosen("method.search", catalogue.submodels.get(names.submodel).value.search);
  catalogue.windows.get(names.window);
  catalogue.merges.get(names.merge);
  catalogue.objectives.get(names.objective);
  if (!names.search.empty()) catalogue.searches.get(names.search);
  refuse_idle_search(catalogue, names);
  return names;
}

void set_defaults(const Catalogue& catalogue, Config& config) {
  const RuleNames names = rule_names(catalogue, config);
  for (const auto& [key, value] : catalogue.methods.get(names.method).value.defaults) {
    config.set_default(key, value);
  }
  for (const auto& [key, value] : catalogue.windows.get(names.window).value(config)) {
    config.set_default(key, value);
  }
}

namespace {

/// An objective that reads what only one merge rule sends has no sense without it.
void refuse_missing_companion(const RuleNames& names, const LocalObjective& objective) {
  const std::string needed = objective.companion_rule();
  if (needed.empty() || names.merge == needed) return;
  throw InputError(
      formatted("method.objective = {} reads values that only merge rule {} sends: set "
                "method.merge = {}, or take another objective than {}",
                names.objective, needed, needed, names.objective));
}

}  // namespace

ServerRules build_rules(const Catalogue& catalogue, const RuleNames& names, const Config& config,
                        const Experiment& experiment) {
  ServerRules rules;
  RuleContext context{config, experiment};
  rules.tasks.objective = catalogue.objectives.get(names.objective).value(context);
  rules.merge = with_server_optimizer(config, catalogue.merges.get(names.merge).value(context));
  refuse_missing_companion(names, *rules.tasks.objective);
  if (rules.merge->companion() != nullptr) rules.tasks.vectors = 2;
  if (!names.search.empty()) {
    rules.tasks.search = catalogue.searches.get(names.search).value(context);
  }
  context.peak = [&experiment, tasks = rules.tasks](const Assignment& assigned,
                                                    std::int64_t client) {
    return assignment_peaks(experiment, tasks, assigned, client).largest();
  };
  const auto costs = std::make_shared<TaskCosts>(experiment, rules.tasks);
  context.update_time = [costs](const Assignment& assigned, std::int64_t client) {
    return costs->update_time(assigned, client);
  };
  rules.submodel = catalogue.submodels.get(names.submodel).value.make(context);
  return rules;
}

ClientRules client_rules(const Catalogue& catalogue, const RuleNames& names) {
  ClientRules rules;
  rules.objective = catalogue.objectives.get(names.objective).value;
  if (!names.search.empty()) rules.search = catalogue.searches.get(names.search).value;
  return rules;
}

}  // namespace espalier::rounds
