#include "espalier/method/parallelsfl.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/base/log.h"
#include "espalier/config/choice.h"
#include "espalier/method/mergesfl_batches.h"
#include "espalier/method/parallelsfl_clusters.h"
#include "espalier/method/parallelsfl_frequencies.h"
#include "espalier/method/parallelsfl_times.h"

namespace espalier::split {
namespace {

const Purpose kLabelSets = register_purpose("parallelsfl.label_sets");
const Purpose kRandomBottoms = register_purpose("parallelsfl.random_bottoms");

constexpr const char* kTopChoices[] = {"least_often", "strict"};
constexpr const char* kLabelDistances[] = {"euclidean", "kl"};

struct ParallelSettings {
  double lambda, pace_quantile, bottom_mbps, recluster_change;
  std::int64_t label_sets, most_iterations, most_bottoms, recluster_every, swap_passes;
  TopChoice top_choice;
  LabelDistance label_distance;
  bool regulates, has_random_bottoms, has_fixed_frequencies, has_uniform_weights;
};

ParallelSettings parallel_settings(const Config& config, std::int64_t clients) {
  std::int64_t sets = config.integer("method.label_sets");
  if (sets == 0) sets = std::max<std::int64_t>(1, std::llround(static_cast<double>(clients) / 5));
  return {.lambda = config.real("method.waiting_share"),
          .pace_quantile = config.real("method.pace_quantile"),
          .bottom_mbps = config.real("method.bottom_mbps"),
          .recluster_change = config.real("method.recluster_change"),
          .label_sets = std::min(sets, clients),
          .most_iterations = config.integer("method.most_iterations"),
          .most_bottoms = config.integer("method.most_bottoms"),
          .recluster_every = config.integer("method.recluster_every"),
          .swap_passes = config.integer("method.swap_passes"),
          .top_choice = choice<TopChoice>(config, "method.top_choice", kTopChoices),
          .label_distance = choice<LabelDistance>(config, "method.label_distance", kLabelDistances),
          .regulates = config.boolean("method.regulation"),
          .has_random_bottoms = config.text("method.clusters") == "random",
          .has_fixed_frequencies = config.text("method.frequencies") == "fixed",
          .has_uniform_weights = config.text("method.cluster_weights") == "uniform"};
}

/// Most bottoms' batches with which the top fits into the client's memory.
std::int64_t fitting_bottoms(const Experiment& experiment, const Costs& costs,
                             std::int64_t client) {
  const std::int64_t cap = memory_bytes(experiment.fleet->device(client));
  const std::int64_t others = experiment.fleet->size() - 1;
  if (cap == 0) return others;
  std::int64_t batch = 0;
  for (std::int64_t other = 0; other <= others; ++other) {
    batch = std::max(batch, experiment.batch_of(other));
  }
  std::int64_t fits = 0, too_many = others + 1;
  while (too_many - fits > 1) {
    const std::int64_t bottoms = std::midpoint(fits, too_many);
    const std::vector<std::int64_t> sizes(static_cast<std::size_t>(bottoms), batch);
    (costs.top_memory(sizes) <= cap ? fits : too_many) = bottoms;
  }
  return fits;
}

void archive_clusters(Archive& archive, std::vector<WorkerCluster>& clusters) {
  archive_list(archive, "clusters", clusters, [](Archive& a, WorkerCluster& cluster) {
    a.value("top", cluster.top);
    a.value("bottoms", cluster.bottoms);
  });
}

class ParallelControl final : public Control {
 public:
  explicit ParallelControl(const ControlContext& context)
      : experiment_(context.experiment),
        costs_(context.costs),
        settings_(parallel_settings(context.config, context.experiment.fleet->size())),
        times_(context.experiment, context.costs),
        slowness_(context.experiment.fleet->size(), context.config.real("method.smoothing")),
        clustered_slowness_(slowness_) {
    const std::int64_t clients = experiment_.fleet->size();
    if (clients < 2) {
      throw InputError(
          "split.control = parallelsfl needs two clients or more, of which one is the host: set "
          "clients.count");
    }
    if (settings_.regulates && context.config.text("split.exchange") == "models") {
      throw InputError(
          "method.regulation chooses batches by the time that a sample's features need: set "
          "method.regulation = false, or split.exchange = features");
    }
    if (context.config.integer("clients.per_round") > 0) {
      log_warning(
          "clients.per_round has no meaning with split.control = parallelsfl: all clients take "
          "part "
          "in every round");
    }
    times_top_.assign(static_cast<std::size_t>(clients), 0);
    if (!experiment_.partition) return;
    labels_ = label_shares(experiment_);
    for (std::int64_t client = 0; client < clients; ++client) {
      fitting_.push_back(fitting_bottoms(experiment_, costs_, client));
      ranges_.push_back(batch_range(experiment_, costs_, client));
    }
    refuse_small_devices();
  }

  RoundPlan plan(std::int64_t version) const override {
    ESPALIER_CHECK(version == version_, "version {} planned after {}", version, version_);
    return plan_of(is_due() ? new_clusters().clusters : clusters_);
  }

  void observe(const std::vector<Observation>& seen) override {
    if (is_due()) {
      Clustering fresh = new_clusters();
      for (const std::int64_t client : fresh.leftovers) {
        log_note(formatted("round {}: no top had room for client {}; one took it all the same",
                           version_ + 1, client));
      }
      clusters_ = std::move(fresh.clusters);
      clustered_ = version_;
      clustered_slowness_ = slowness_;
    }
    const RoundPlan plan = plan_of(clusters_);
    for (const ClusterPlan& cluster : plan.clusters) {
      ++times_top_[static_cast<std::size_t>(cluster.host)];
      for (const WorkerPlan& worker : cluster.workers) {
        times_.learn(slowness_, cluster, worker,
                     *std::ranges::lower_bound(seen, worker.client, {}, &Observation::client));
      }
    }
    ++version_;
  }

  void archive(Archive& archive) override {
    archive.value("version", version_);
    archive.value("clustered", clustered_);
    archive.value("times_top", times_top_);
    archive_clusters(archive, clusters_);
    archive.open("slowness");
    slowness_.archive(archive);
    archive.close();
    archive.open("clustered_slowness");
    clustered_slowness_.archive(archive);
    archive.close();
  }

 private:
  /// Each client may become a bottom in some round.
  void refuse_small_devices() const {
    ClusterPlan all{.iterations = 1};
    for (std::int64_t client = 0; client < experiment_.fleet->size(); ++client) {
      all.workers.push_back({client, experiment_.batch_of(client)});
    }
    costs_.refuse_little_memory({{all}});
  }

  /// Whether the next round has new clusters.
  bool is_due() const {
    return clusters_.empty() || version_ - clustered_ >= settings_.recluster_every ||
           slowness_.differs(clustered_slowness_, settings_.recluster_change);
  }

  Workers workers() const {
    Workers workers;
    for (std::int64_t client = 0; client < experiment_.fleet->size(); ++client) {
      const auto i = static_cast<std::size_t>(client);
      const double rate = experiment_.fleet->device(client).down_mbps;
      Candidate candidate{.labels = labels_[i],
                          .bandwidth = rate > 0 ? rate : std::numeric_limits<double>::infinity(),
                          .limit = std::min(settings_.most_bottoms, fitting_[i]),
                          .fitting = fitting_[i],
                          .top_s = times_.top_s(slowness_, client),
                          .times_top = times_top_[i]};
      if (rate > 0 && settings_.bottom_mbps > 0) {
        candidate.limit = std::min(
            candidate.limit, static_cast<std::int64_t>(std::floor(rate / settings_.bottom_mbps)));
      }
      workers.all.push_back(std::move(candidate));
    }
    workers.side_s = [this](std::int64_t worker, std::int64_t top) {
      return times_.side_s(slowness_, worker, top);
    };
    return workers;
  }

  Clustering new_clusters() const {
    const Workers workers = this->workers();
    const std::vector<std::int64_t> sets =
        label_sets(labels_, settings_.label_sets, settings_.label_distance,
                   Stream(experiment_.seed, kLabelSets, version_));
    Clustering result = greedy_clusters(workers, sets, settings_.top_choice);
    if (settings_.has_random_bottoms) {
      draw_bottoms(result.clusters, Stream(experiment_.seed, kRandomBottoms, version_));
    } else {
      const Utility utility(workers, result.clusters, settings_.lambda);
      tune(workers, utility, settings_.swap_passes, result.clusters);
    }
    return result;
  }

  RoundPlan plan_of(const std::vector<WorkerCluster>& clusters) const {
    RoundPlan plan;
    std::vector<ClusterPace> paces;
    for (const WorkerCluster& cluster : clusters) {
      plan.clusters.push_back({.host = cluster.top, .workers = workers_of(cluster)});
      paces.push_back(times_.pace(slowness_, plan.clusters.back()));
    }
    std::vector<std::int64_t> iterations(clusters.size(), settings_.most_iterations);
    if (!settings_.has_fixed_frequencies) {
      iterations = frequencies(paces, settings_.most_iterations, settings_.pace_quantile);
    }
    for (std::size_t c = 0; c < clusters.size(); ++c) {
      ClusterPlan& cluster = plan.clusters[c];
      cluster.iterations = iterations[c];
      if (settings_.has_uniform_weights) continue;
      double workers = 0;
      for (const WorkerPlan& worker : cluster.workers) workers += worker.weight;
      cluster.weight = workers * static_cast<double>(iterations[c]);
    }
    return plan;
  }

  /// With regulation a worker counts as its batch does, as in MergeSFL; otherwise all count
  /// equally.
  std::vector<WorkerPlan> workers_of(const WorkerCluster& cluster) const {
    std::vector<WorkerPlan> workers;
    std::vector<double> sample_s;
    std::vector<BatchRange> ranges;
    for (const std::int64_t client : cluster.bottoms) {
      const std::int64_t batch = experiment_.batch_of(client);
      workers.push_back({client, batch});
      sample_s.push_back(times_.side_s(slowness_, client, cluster.top) /
                         static_cast<double>(batch));
      ranges.push_back(ranges_[static_cast<std::size_t>(client)]);
    }
    if (!settings_.regulates) return workers;
    const Batches batches = regulated_batches(sample_s, experiment_.train.batch, ranges);
    for (std::size_t i = 0; i < workers.size(); ++i) {
      workers[i].batch = batches[i];
      workers[i].weight = static_cast<double>(batches[i]);
    }
    return workers;
  }

  const Experiment& experiment_;
  const Costs& costs_;
  ParallelSettings settings_;
  ParallelTimes times_;
  std::vector<LabelShares> labels_;    // by client
  std::vector<std::int64_t> fitting_;  // by client: most bottoms, by memory
  std::vector<BatchRange> ranges_;     // by client, for regulation
  // Before the next round:
  std::int64_t version_ = 0, clustered_ = 0;
  std::vector<WorkerCluster> clusters_;  // of the last round
  std::vector<std::int64_t> times_top_;
  Slowness slowness_, clustered_slowness_;  // now, and when the clusters were made
};

void declare_parallelsfl_options(OptionTable& table) {
  table.add(
      {"method.waiting_share", OptionType::real, "0.5",
       "control parallelsfl: lambda, the share of waiting in a cluster's utility; the rest is "
       "the divergence of its labels",
       "", 0, 1});
  table.add({"method.most_iterations", OptionType::integer, "20",
             "control parallelsfl: tau_max, iterations of the fastest cluster in a round", "", 1,
             1e9});
  table.add({"method.pace_quantile", OptionType::real, "0.1",
             "control parallelsfl: place among the clusters, by the time of an iteration, of the "
             "one that sets the pace; 0 = the fastest",
             "", 0, 1});
  table.add_choice("method.frequencies", "adaptive",
                   "control parallelsfl: iterations so that all clusters end together, or "
                   "method.most_iterations for all",
                   {"adaptive", "fixed"});
  table.add_choice("method.clusters", "utility",
                   "control parallelsfl: bottoms of a cluster by utility, or drawn at random for "
                   "the same tops and sizes",
                   {"utility", "random"});
  table.add_choice("method.cluster_weights", "work",
                   "control parallelsfl: weight of a cluster's model: bottoms times iterations, or "
                   "the same for all",
                   {"work", "uniform"});
  table.add({"method.label_sets", OptionType::integer, "0",
             "control parallelsfl: sets of clients with similar labels, from which clusters are "
             "filled; 0 = a fifth of the clients",
             "", 0, 1e6});
  table.add_choice("method.label_distance", "euclidean",
                   "control parallelsfl: distance of the k-means that makes the sets",
                   {std::begin(kLabelDistances), std::end(kLabelDistances)});
  table.add({"method.bottom_mbps", OptionType::real, "5",
             "control parallelsfl: b, the part of a top's incoming link that a bottom occupies; 0 "
             "= no limit",
             "Mbit/s", 0, 1e12});
  table.add({"method.most_bottoms", OptionType::integer, "8",
             "control parallelsfl: most bottoms of a cluster", "", 1, 1e6});
  table.add({"method.swap_passes", OptionType::integer, "3",
             "control parallelsfl: passes of swaps that fine-tune the clusters; 0 = none", "", 0,
             1e6});
  table.add_choice("method.top_choice", "least_often",
                   "control parallelsfl: top of a cluster: of the three clients with the fastest "
                   "incoming link in the set the one that was it least often, or the fastest",
                   {std::begin(kTopChoices), std::end(kTopChoices)});
  table.add({"method.recluster_every", OptionType::integer, "10",
             "control parallelsfl: rounds between two clusterings", "rounds", 1, 1e9});
  table.add(
      {"method.recluster_change", OptionType::real, "0.2",
       "control parallelsfl: change of an estimate after which clusters are made anew at once", "",
       0, 1e6});
  table.add({"method.regulation", OptionType::boolean, "true",
             "controls mergesfl, parallelsfl: batches such that all workers of a cluster need the "
             "time of the fastest, which has train.batch; false: each has its largest batch"});
  table.add({"method.smoothing", OptionType::real, "0.8",
             "controls mergesfl, parallelsfl: share of the old value in an estimate of a client's "
             "speed",
             "", 0, 1});
}

}  // namespace

void register_parallelsfl(Catalogue& c) {
  declare_parallelsfl_options(c.options);
  c.controls.add(
      "parallelsfl", "clusters by labels and speed, with a client as host of each top",
      [](const ControlContext& context) { return std::make_unique<ParallelControl>(context); });
  c.methods.add("parallelsfl",
                "clusters of workers with a top on one of them; the server averages whole models "
                "(Liao et al. 2024)",
                {.control = "parallelsfl",
                 .defaults = {{"split.top", "accumulated"},
                              {"split.last_batch", "drop"},
                              {"method.regulation", "false"}}});
}

}  // namespace espalier::split
