#include "espalier/protocol/rounds/catalogue.h"

namespace espalier {

void declare_method_options(OptionTable& table) {
  table.add({"method.name", OptionType::text, "fedavg", "the method; see `espalier list methods`"});
  table.add({"method.submodel", OptionType::text, "", "replaces the method's submodel rule"});
  table.add({"method.window", OptionType::text, "", "replaces the method's window"});
  table.add({"method.merge", OptionType::text, "", "replaces the method's merge rule"});
  table.add({"method.objective", OptionType::text, "", "replaces the method's local objective"});
  table.add({"method.search", OptionType::text, "",
             "replaces the method's search, of a submodel rule whose clients search"});
}

RuleNames choose_rules(const Catalogue& catalogue, Config& config) {
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
                  chosen("method.search", method.search)};
  for (const auto& [key, value] : method.defaults) config.set_default(key, value);
  for (const auto& [key, value] : catalogue.windows.get(names.window).value(config)) {
    config.set_default(key, value);
  }
  catalogue.submodels.get(names.submodel);
  catalogue.merges.get(names.merge);
  catalogue.objectives.get(names.objective);
  if (!names.search.empty()) catalogue.searches.get(names.search);
  return names;
}

}  // namespace espalier
