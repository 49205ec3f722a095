#include "espalier/method/splitfed.h"

#include <algorithm>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/config/choice.h"
#include "espalier/protocol/split/costs.h"

namespace espalier::split {
namespace {

const Purpose kSelect = register_purpose("split.select");

constexpr const char* kWeights[] = {"samples", "uniform", "batch"};

/// The same plan in every round, but for the choice of workers.
class FixedControl final : public Control {
 public:
  explicit FixedControl(const ControlContext& context)
      : experiment_(context.experiment),
        costs_(context.costs),
        weights_(worker_weights(context.config)),
        each_(context.config.text("split.clusters") == "each"),
        fastest_hosts_(context.config.text("split.host") == "fastest"),
        iterations_(context.config.integer("split.iterations")),
        per_round_(context.config.integer("clients.per_round")) {
    if (!fastest_hosts_) return;
    if (each_ || per_round_ == 1 || experiment_.fleet->size() == 1) {
      throw InputError(
          "split.host = fastest needs two clients or more that share a top, of which one holds it: "
          "set split.clusters = one and more clients");
    }
  }

  RoundPlan plan(std::int64_t version) const override {
    std::vector<std::int64_t> clients = selected(version);
    ClusterPlan all;
    if (fastest_hosts_) {
      all.host = fastest(clients, version);
      std::erase(clients, all.host);
    }
    RoundPlan plan;
    for (const std::int64_t client : clients) {
      const std::int64_t batch = experiment_.batch_of(client);
      all.workers.push_back({client, batch, weight_of(weights_, experiment_, client, batch)});
      if (each_) plan.clusters.push_back(finished(std::exchange(all, {})));
    }
    if (!each_) plan.clusters.push_back(finished(std::move(all)));
    return plan;
  }

 private:
  std::vector<std::int64_t> selected(std::int64_t version) const {
    const std::int64_t clients = experiment_.fleet->size();
    const std::int64_t count = per_round_ > 0 ? per_round_ : clients;
    return Stream(experiment_.seed, kSelect, version).choose(count, clients);
  }

  /// The client with the fastest link from others, of those the first.
  std::int64_t fastest(const std::vector<std::int64_t>& clients, std::int64_t version) const {
    return *std::ranges::max_element(clients, {}, [&](std::int64_t client) {
      const double rate = experiment_.fleet->device_at(client, version).down_mbps;
      return rate > 0 ? rate : std::numeric_limits<double>::infinity();
    });
  }

  ClusterPlan finished(ClusterPlan cluster) const {
    cluster.iterations = iterations_;
    cluster.weight = 0;
    for (const WorkerPlan& worker : cluster.workers) {
      cluster.weight += worker.weight;
      if (iterations_ > 0) continue;
      cluster.iterations =
          std::max(cluster.iterations, costs_.iterations(worker.client, worker.batch));
    }
    return cluster;
  }

  const Experiment& experiment_;
  const Costs& costs_;
  WorkerWeights weights_;
  bool each_, fastest_hosts_;
  std::int64_t iterations_, per_round_;
};

void declare_fixed_options(OptionTable& table) {
  table.add_choice("split.clusters", "one",
                   "control fixed: workers that share a top: all of them, or none (each has one)",
                   {"one", "each"});
  table.add({"split.iterations", OptionType::integer, "0",
             "iterations of a round; 0 = the batches of train.epochs or train.steps, of the worker "
             "in the cluster that has the most",
             "", 0, 1e9});
  table.add_choice("split.weights", "samples",
                   "weight of a worker by its samples, the same for all, or by its batch size",
                   {std::begin(kWeights), std::end(kWeights)});
  table.add_choice(
      "split.host", "server",
      "control fixed: what holds the tops: the server; or of the chosen clients the one "
      "with the fastest incoming link, which does not train on its own data",
      {"server", "fastest"});
}

}  // namespace

WorkerWeights worker_weights(const Config& config) {
  return choice<WorkerWeights>(config, "split.weights", kWeights);
}

double weight_of(WorkerWeights weights, const Experiment& experiment, std::int64_t client,
                 std::int64_t batch) {
  switch (weights) {
    case WorkerWeights::samples:
      return static_cast<double>(experiment.samples_of(client));
    case WorkerWeights::batch:
      return static_cast<double>(batch);
    case WorkerWeights::uniform:
      break;
  }
  return 1;
}

void register_splitfed(Catalogue& c) {
  declare_fixed_options(c.options);
  c.controls.add(
      "fixed", "the same clusters and batch sizes in every round",
      [](const ControlContext& context) { return std::make_unique<FixedControl>(context); });
  c.methods.add("splitfed_v1",
                "a top for each worker, averaged after each round (Thapa et al. 2022)",
                {.control = "fixed", .defaults = {{"split.clusters", "each"}}});
  c.methods.add(
      "splitfed_v2",
      "one top, which steps on one worker's batch after the other (Thapa et al. 2022)",
      {.control = "fixed", .defaults = {{"split.clusters", "one"}, {"split.top", "in_turn"}}});
}

}  // namespace espalier::split
