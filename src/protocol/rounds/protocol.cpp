#include "espalier/protocol/rounds/protocol.h"

#include "espalier/protocol/rounds/check.h"
#include "espalier/protocol/rounds/coverage.h"
#include "espalier/protocol/rounds/heterogeneity.h"
#include "espalier/protocol/rounds/personal.h"
#include "espalier/protocol/rounds/server.h"
#include "espalier/protocol/rounds/server_optimizer.h"
#include "espalier/protocol/rounds/tables.h"
#include "espalier/train/weights.h"

namespace espalier::rounds {
namespace {

class Rounds final : public Preparation {
 public:
  Rounds(const Catalogue& catalogue, const Config& config, const Experiment& experiment)
      : experiment_(experiment),
        names_(rule_names(catalogue, config)),
        rules_(build_rules(catalogue, names_, config, experiment)),
        settings_(server_settings(config, experiment)),
        optimizer_copies_(server_optimizer_copies(config)),
        model_(first_model(config, experiment)) {
    refuse_endless_tasks(experiment, *rules_.tasks.objective, settings_.clock);
    heterogeneity_ = heterogeneity(experiment);
  }

  void print_check() const override {
    rounds::print_check(experiment_, names_, rules_, heterogeneity_,
                        {settings_.sampler.at_once(), optimizer_copies_});
  }

  std::unique_ptr<Conversation> converse(Run& run) override {
    const bool is_recorded = run.records().rows(fleet_schema().path) > 0;  // before a resume
    if (!is_recorded) record(run.records(), heterogeneity_.value());
    return std::make_unique<RoundsServer>(experiment_, std::move(settings_), std::move(rules_),
                                          std::move(model_), run);
  }

 private:
  const Experiment& experiment_;
  RuleNames names_;
  ServerRules rules_;
  ServerSettings settings_;
  std::int64_t optimizer_copies_;
  Parameters model_;  // before round 0
  std::optional<Heterogeneity> heterogeneity_;
};

void declare(const Catalogue& catalogue, OptionTable& table) {
  declare_method_options(table);
  for (const Option& option : catalogue.options.options()) table.add(option);
  declare_window_options(table);
  declare_sampling_options(table);
  declare_fault_options(table);
  declare_spread_options(table);
  declare_coverage_options(table);
}

template <class Value>
Listing listing_of(const std::string& kind, const std::string& title,
                   const Registry<Value>& registry) {
  Listing listing{kind, title, {}};
  for (const auto& item : registry.items()) listing.items.push_back({item.name, item.help});
  return listing;
}

Listing methods(const Catalogue& catalogue) {
  Listing listing{"method", "methods (method.name)", {}};
  for (const auto& [name, help, m] : catalogue.methods.items()) {
    std::string details = formatted("submodel {}, window {}, merge {}, objective {}\n", m.submodel,
                                    m.window, m.merge, m.objective);
    for (const auto& [key, value] : m.defaults) details += formatted("{} = {}\n", key, value);
    listing.items.push_back({name, help, details});
  }
  return listing;
}

std::vector<Listing> listings(const Catalogue& c) {
  return {
      methods(c),
      listing_of("method.submodel", "submodel rules (method.submodel)", c.submodels),
      listing_of("method.search",
                 "searches (method.search) for submodel rules whose clients search", c.searches),
      listing_of("method.window", "windows (method.window)", c.windows),
      listing_of("method.merge", "merge rules (method.merge)", c.merges),
      listing_of("method.objective", "objectives (method.objective)", c.objectives)};
}

}  // namespace

Protocol protocol(const Catalogue& c) {
  return {
      .name = "rounds",
      .help =
          "clients train submodels of a global model; the server merges their updates in "
          "windows",
      .declare = [&c](OptionTable& table) { declare(c, table); },
      .tables = {&rounds_schema(), &tasks_schema(), &fleet_schema()},
      .list = [&c] { return listings(c); },
      .choose = [&c](Config& config) { set_defaults(c, config); },
      .complete =
          [](const Config& config, Experiment& experiment) {
            mark_personal(config, experiment);  // messages, and so links, follow from it
            spread_links(config, experiment);
          },
      .prepare =
          [&c](const Config& config, const Experiment& experiment) {
            return std::make_unique<Rounds>(c, config, experiment);
          },
      .add_jobs =
          [&c](JobKinds& kinds, Residents&, const Config& config, const Experiment& experiment) {
            add_client_jobs(kinds, RuleContext{config, experiment},
                            client_rules(c, rule_names(c, config)));
          }};
}

}  // namespace espalier::rounds
