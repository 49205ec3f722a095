#include "espalier/protocol/split/protocol.h"

#include <algorithm>
#include <numeric>

#include "espalier/base/log.h"
#include "espalier/base/units.h"
#include "espalier/protocol/split/memory.h"
#include "espalier/protocol/split/server.h"
#include "espalier/protocol/split/tables.h"
#include "espalier/train/weights.h"

namespace espalier::split {
namespace {

class Split final : public Preparation {
 public:
  Split(const Catalogue& catalogue, const Config& config, const Experiment& experiment)
      : experiment_(experiment),
        method_(config.text("method.name")),
        settings_(server_settings(config, experiment)),
        control_(catalogue.controls.get(config.text("split.control"))
                     .value({config, experiment, *settings_.costs})),
        model_(first_model(config, experiment)) {
    if (!experiment.partition) return;
    const RoundPlan plan = control_->plan(0);
    settings_.costs->refuse_little_memory(plan);
    refuse_slow_server(ServerResources(config), plan);
  }

  void print_check() const override;

  std::unique_ptr<Conversation> converse(Run& run) override {
    return std::make_unique<SplitServer>(experiment_, std::move(settings_), std::move(control_),
                                         std::move(model_), run);
  }

 private:
  void print_plan() const;
  void refuse_slow_server(ServerResources server, const RoundPlan& plan) const;

  const Experiment& experiment_;
  std::string method_;
  ServerSettings settings_;
  std::unique_ptr<Control> control_;
  Parameters model_;  // before the first round
};

/// InputError if the server would need an absurd time for one iteration of the plan, or for the
/// models of hosts that are clients.
void Split::refuse_slow_server(ServerResources server, const RoundPlan& plan) const {
  const Costs& costs = *settings_.costs;
  for (const ClusterPlan& cluster : plan.clusters) {
    if (cluster.host != kServer) {
      server.down.take(0, costs.model_bytes());
      server.up.take(0, costs.model_bytes());
      continue;
    }
    for (const WorkerPlan& worker : cluster.workers) {
      server.down.take(0, costs.down_bytes(worker.batch));
      server.up.take(0, costs.up_bytes(worker.batch));
    }
    server.processor.take(0, costs.top_flops(batch_sizes(cluster)));
  }
}

void Split::print_check() const {
  const Experiment& e = experiment_;
  const Parts& parts = *settings_.parts;
  const Costs& costs = *settings_.costs;
  const auto& blocks = e.model.layout->blocks;
  log_note(formatted("method   {}", method_));
  log_note(
      formatted("model    {}, {}", e.model.name, parameters_description(model_.buffer_layout())));
  log_note(formatted("data     {}, {} training and {} test samples", e.data.name,
                     e.data.train ? e.data.train->size() : 0,
                     e.data.test ? e.data.test->size() : 0));
  if (parts.exchange == Exchange::models) {
    log_note(formatted("workers  the whole model ({}), batches in an iteration: {}",
                       megabytes(costs.model_bytes()), parts.local_steps));
  } else {
    log_note(formatted("bottom   {} of {} blocks, {} parameters, {} features a sample", parts.cut,
                       blocks.size(), costs.bottom(1).parameters, costs.feature_bytes(1) / 4));
    log_note(formatted("top      from block {}, {} parameters",
                       blocks[static_cast<std::size_t>(parts.cut)], costs.top(1).parameters));
  }
  if (e.partition) {
    print_plan();
  } else {
    log_result("memory   known only with the data");
  }
}

/// The clusters of the first round.
void Split::print_plan() const {
  const Costs& costs = *settings_.costs;
  const RoundPlan plan = control_->plan(0);
  std::int64_t bottom = 0, top = 0, fewest = plan.clusters.front().iterations, most = 0;
  for (const ClusterPlan& cluster : plan.clusters) {
    fewest = std::min(fewest, cluster.iterations);
    most = std::max(most, cluster.iterations);
    const std::vector<std::int64_t> sizes = batch_sizes(cluster);
    for (const std::int64_t size : sizes) bottom = std::max(bottom, costs.bottom_memory(size));
    top = std::max(top, costs.top_memory(sizes));
  }
  log_note(server_line(experiment_, held_bytes(experiment_, *settings_.parts, costs, plan)));
  const bool splits = settings_.parts->exchange == Exchange::features;
  log_note(formatted("round    {} workers, {}: {}, iterations: {}", workers_of(plan.clusters),
                     splits ? "tops" : "hosts", plan.clusters.size(),
                     fewest == most ? formatted("{}", most) : formatted("{} to {}", fewest, most)));
  // With -q too.
  log_result(formatted("memory   {} at most for a {}, {} for a {}", megabytes(bottom),
                       splits ? "bottom" : "worker", megabytes(top), splits ? "top" : "host"));
}

void declare(const Catalogue& catalogue, OptionTable& table) {
  table.add({"split.control", OptionType::text, "fixed",
             "control module, which plans each round: its workers, clusters and batch sizes"});
  declare_part_options(table);
  declare_server_options(table);
  for (const Option& option : catalogue.options.options()) table.add(option);
}

std::vector<Listing> listings(const Catalogue& catalogue) {
  Listing methods{"method", "methods (method.name)", {}};
  for (const auto& [name, help, method] : catalogue.methods.items()) {
    std::string details = formatted("split.control = {}\n", method.control);
    for (const auto& [key, value] : method.defaults) details += formatted("{} = {}\n", key, value);
    methods.items.push_back({name, help, details});
  }
  Listing controls{"split.control", "control modules (split.control)", {}};
  for (const auto& [name, help, make] : catalogue.controls.items()) {
    controls.items.push_back({name, help});
  }
  return {methods, controls};
}

void choose(const Catalogue& catalogue, Config& config) {
  const Method& method = catalogue.methods.get(config.text("method.name")).value;
  config.set_default("split.control", method.control);
  for (const auto& [key, value] : method.defaults) config.set_default(key, value);
  catalogue.controls.get(config.text("split.control"));
}

}  // namespace

Protocol protocol(const Catalogue& catalogue) {
  return {
      .name = "split",
      .help =
          "workers train the bottom of a model, hosts its top; features and gradients, or whole "
          "models and their mean, go between them in every iteration",
      .declare = [&catalogue](OptionTable& table) { declare(catalogue, table); },
      .tables = {&split_rounds_schema(), &clusters_schema(), &iterations_schema()},
      .list = [&catalogue] { return listings(catalogue); },
      .choose = [&catalogue](Config& config) { choose(catalogue, config); },
      .complete =
          [](const Config&, Experiment& experiment) {
            if (!experiment.frozen) return;
            throw InputError(
                "train.freeze and train.only are not for split models, whose workers and hosts "
                "exchange all weights: leave them out, or take a method of clients or regions");
          },
      .prepare =
          [&catalogue](const Config& config, const Experiment& experiment) {
            return std::make_unique<Split>(catalogue, config, experiment);
          },
      .add_jobs =
          [](JobKinds& kinds, Residents& residents, const Config& config,
             const Experiment& experiment) {
            add_round_jobs(kinds, residents, experiment,
                           std::make_shared<const Parts>(make_parts(config, experiment)));
          }};
}

}  // namespace espalier::split
