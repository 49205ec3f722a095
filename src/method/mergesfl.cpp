#include "espalier/method/mergesfl.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/config/choice.h"
#include "espalier/method/mergesfl_cohort.h"
#include "espalier/method/mergesfl_estimates.h"
#include "espalier/method/splitfed.h"
#include "espalier/protocol/split/costs.h"

namespace espalier::split {
namespace {

const Purpose kChoose = register_purpose("mergesfl.cohort");
const Purpose kNoise = register_purpose("mergesfl.noise");

enum class Choice { genetic, random, all };
constexpr const char* kChoices[] = {"genetic", "random", "all"};

struct MergeSettings {
  bool regulates, refines, by_samples;
  Choice choice;
  double limit, trust, budget, noise, kept;
  std::int64_t largest, iterations, per_round, fewest;
  GeneticSettings genetic;
  WorkerWeights weights;

  explicit MergeSettings(const ControlContext& context)
      : regulates(context.config.boolean("method.regulation")),
        refines(context.config.boolean("method.refinement")),
        by_samples(context.config.text("method.reference") == "samples"),
        choice(espalier::choice<Choice>(context.config, "method.selection", kChoices)),
        limit(context.config.real("method.divergence_limit")),
        trust(context.config.real("method.trust")),
        budget(context.config.real("method.budget")),
        noise(context.config.real("method.noise")),
        kept(context.config.real("method.smoothing")),
        largest(context.experiment.train.batch),
        iterations(context.config.integer("split.iterations")),
        per_round(context.config.integer("clients.per_round")),
        fewest(context.config.integer("method.fewest_workers")),
        genetic{.population = context.config.integer("method.population"),
                .generations = context.config.integer("method.generations")},
        weights(worker_weights(context.config)) {}
};

class MergeControl final : public Control {
 public:
  explicit MergeControl(const ControlContext& context)
      : experiment_(context.experiment),
        costs_(context.costs),
        settings_(context),
        selected_(static_cast<std::size_t>(workers()), 0),
        estimates_(first_times(), settings_.kept) {
    refuse_contradictions(context.config);
    if (!experiment_.partition) return;
    for (std::int64_t i = 0; i < workers(); ++i)
      ranges_.push_back(batch_range(experiment_, costs_, i));
    refuse_small_devices();
    labels_ = label_shares(experiment_);
    reference_ = settings_.by_samples ? shares_of_all() : mean_shares(labels_);
  }

  RoundPlan plan(std::int64_t version) const override {
    const std::vector<double> sample_s = estimates_.sample_s();
    Batches all = settings_.regulates ? regulated_batches(sample_s, settings_.largest, ranges_)
                                      : largest_batches();
    const std::vector<double> priority = priorities(selected_);
    const CohortBounds bounds = bounds_of(all, priority);
    const Cohort cohort = cohort_of(bounds, version);
    Batches batches = cohort_batches(cohort, all);
    if (settings_.refines) {
      batches = refined_batches(
          std::move(batches), labels_, reference_, sample_s, ranges_,
          {.limit = limit_for(batches), .trust = settings_.trust, .budget = bounds.budget});
    }
    if (bounds.budget > 0) {
      batches = filled_batches(std::move(batches), bounds.budget, settings_.largest, ranges_);
    }
    return plan_of(cohort, batches);
  }

  void observe(const std::vector<Observation>& seen) override {
    for (const Observation& worker : seen) {
      const auto samples = static_cast<double>(worker.samples);
      ++selected_[static_cast<std::size_t>(worker.client)];
      estimates_.observe(worker.client, noisy(worker.client, seconds(worker.compute) / samples,
                                              seconds(worker.transfer) / samples));
    }
  }

  void archive(Archive& archive) override {
    archive.value("times_selected", selected_);
    estimates_.archive(archive);
  }

 private:
  std::int64_t workers() const { return experiment_.fleet->size(); }

  void refuse_contradictions(const Config& config) const {
    if (config.text("split.exchange") == "models") {
      throw InputError(
          "split.control = mergesfl chooses batches by the time that a sample's features need: set "
          "split.exchange = features, or another split.control");
    }
    if (settings_.iterations == 0) {
      throw InputError(
          "split.control = mergesfl has workers with batches of different sizes, which make "
          "equally "
          "many iterations: set split.iterations");
    }
    if (settings_.choice == Choice::all && settings_.per_round > 0) {
      throw InputError(
          "method.selection = all contradicts clients.per_round: leave one of them out");
    }
    if (settings_.per_round > 0 && settings_.fewest > settings_.per_round) {
      throw InputError(
          formatted("method.fewest_workers = {} is more than clients.per_round = {}: give fewer",
                    settings_.fewest, settings_.per_round));
    }
    if (settings_.fewest > workers()) {
      throw InputError(
          formatted("method.fewest_workers = {} is more than clients.count = {}: give "
                    "fewer",
                    settings_.fewest, workers()));
    }
  }

  /// Every client may be selected, so each must be able to train with its smallest batch.
  void refuse_small_devices() const {
    ClusterPlan smallest;
    for (std::int64_t i = 0; i < workers(); ++i) {
      smallest.workers.push_back({i, ranges_[static_cast<std::size_t>(i)].least});
    }
    costs_.refuse_little_memory({{smallest}});
  }

  // Estimates -------------------------------------------------------------------------------------

  /// One batch of each worker, timed before the first round.
  std::vector<SampleTime> first_times() const {
    std::vector<SampleTime> times;
    for (std::int64_t client = 0; client < workers(); ++client) {
      const DeviceClass device = experiment_.fleet->device_at(client, 0);
      const std::int64_t batch = experiment_.batch_of(client);
      const auto samples = static_cast<double>(batch);
      const Nanoseconds compute =
          costs_.forward_time(device, batch) + costs_.backward_time(device, batch);
      const Nanoseconds transfer =
          transfer_time(device.up_mbps, device.latency_ms,
                        costs_.feature_bytes(batch) + costs_.label_bytes(batch)) +
          transfer_time(device.down_mbps, device.latency_ms, costs_.feature_bytes(batch));
      times.push_back(noisy(client, seconds(compute) / samples, seconds(transfer) / samples));
    }
    return times;
  }

  /// What is measured of these times: up to method.noise more or less.
  SampleTime noisy(std::int64_t client, double compute_s, double transfer_s) const {
    Stream random(experiment_.seed, kNoise, client, selected_[static_cast<std::size_t>(client)]);
    const auto factor = [&] { return 1 + settings_.noise * (2 * random.uniform() - 1); };
    const double compute = compute_s * factor();
    return {compute, transfer_s * factor()};
  }

  // Batches ---------------------------------------------------------------------------------------

  Batches largest_batches() const {
    Batches batches;
    for (const BatchRange& range : ranges_) batches.push_back(range.most);
    return batches;
  }

  /// The mix of labels of all samples.
  LabelShares shares_of_all() const {
    Batches samples;
    for (std::int64_t i = 0; i < workers(); ++i) samples.push_back(experiment_.samples_of(i));
    return merged_shares(labels_, samples);
  }

  /// With few workers no choice may be near the reference, and then the limit follows what there
  /// is.
  double limit_for(const Batches& batches) const {
    constexpr std::int64_t kFew = 16;
    if (workers() >= kFew) return settings_.limit;
    const double here = divergence(merged_shares(labels_, batches), reference_);
    return std::max(settings_.limit, 0.8 * here);
  }

  // Workers ---------------------------------------------------------------------------------------

  CohortBounds bounds_of(const Batches& all, const std::vector<double>& priority) const {
    const std::int64_t count = workers();
    CohortBounds bounds{.batches = all, .priority = priority};
    bounds.most = settings_.per_round > 0 ? settings_.per_round : (count + 1) / 2;
    bounds.fewest =
        settings_.fewest > 0 ? settings_.fewest : std::max<std::int64_t>(2, (count + 7) / 8);
    bounds.fewest = std::min(bounds.fewest, count);
    if (settings_.per_round > 0) bounds.fewest = std::min(bounds.fewest, bounds.most);
    bounds.most = std::max(bounds.most, bounds.fewest);
    if (settings_.choice == Choice::all) bounds.fewest = bounds.most = count;
    if (settings_.budget > 0) {
      std::int64_t samples = 0;
      for (const std::int64_t batch : all) samples += batch;
      const auto wanted =
          static_cast<std::int64_t>(settings_.budget * static_cast<double>(samples));
      bounds.budget = possible_budget(wanted, bounds.fewest, all);
    }
    return bounds;
  }

  Cohort cohort_of(const CohortBounds& bounds, std::int64_t version) const {
    Stream random(experiment_.seed, kChoose, version);
    if (settings_.choice == Choice::genetic) {
      return genetic_cohort(bounds, labels_, reference_, settings_.genetic, std::move(random))
          .cohort;
    }
    return random_cohort(bounds, std::move(random));
  }

  RoundPlan plan_of(const Cohort& cohort, const Batches& batches) const {
    ClusterPlan all{.iterations = settings_.iterations};
    for (const std::int64_t client : cohort) {
      const std::int64_t batch = batches[static_cast<std::size_t>(client)];
      all.workers.push_back(
          {client, batch, weight_of(settings_.weights, experiment_, client, batch)});
    }
    return {{std::move(all)}};
  }

  const Experiment& experiment_;
  const Costs& costs_;
  MergeSettings settings_;
  std::vector<std::int64_t> selected_;  // rounds in which each worker took part
  SpeedEstimates estimates_;
  std::vector<BatchRange> ranges_;
  std::vector<LabelShares> labels_;
  LabelShares reference_;
};

void declare_merge_options(OptionTable& table) {
  table.add({"method.regulation", OptionType::boolean, "true",
             "controls mergesfl, parallelsfl: batches such that all workers of a cluster need the "
             "time of the fastest, which has train.batch; false: each has its largest batch"});
  table.add_choice(
      "method.selection", "genetic",
      "control mergesfl: workers of a round: by a genetic algorithm for the best mix of "
      "labels, drawn, or all",
      {std::begin(kChoices), std::end(kChoices)});
  table.add({"method.refinement", OptionType::boolean, "true",
             "control mergesfl: change batches until the mix of labels is within "
             "method.divergence_limit"});
  table.add({"method.divergence_limit", OptionType::real, "0.05",
             "control mergesfl: divergence from the reference at which batches are refined; with "
             "fewer than 16 workers at least 0.8 of the divergence of those selected",
             "nat", 0, 1e3});
  table.add({"method.trust", OptionType::real, "0.5",
             "control mergesfl: refinement changes a batch by this share of itself at most", "", 0,
             1e3});
  table.add(
      {"method.budget", OptionType::real, "0.3",
       "control mergesfl: most samples that the server takes in an iteration, as a share of "
       "the batches of all workers; what is left of it is filled with larger batches; 0 = not "
       "limited, not filled",
       "", 0, 1e3});
  table.add_choice("method.reference", "workers",
                   "control mergesfl: the mix of labels that is sought: the mean of the workers' "
                   "mixes, or the mix of all samples",
                   {"workers", "samples"});
  table.add({"method.smoothing", OptionType::real, "0.8",
             "controls mergesfl, parallelsfl: share of the old value in an estimate of a client's "
             "speed",
             "", 0, 1});
  table.add({"method.noise", OptionType::real, "0.05",
             "control mergesfl: error of an observed time: up to this share more or less", "", 0,
             0.99});
  table.add(
      {"method.fewest_workers", OptionType::integer, "0",
       "control mergesfl: fewest workers of a round; 0 = an eighth of all, at least 2. The most "
       "are clients.per_round, or half of all",
       "", 0, 1e9});
  table.add({"method.population", OptionType::integer, "40",
             "control mergesfl: cohorts in a generation of the genetic algorithm", "", 1, 1e6});
  table.add({"method.generations", OptionType::integer, "60",
             "control mergesfl: generations of the genetic algorithm", "", 0, 1e6});
}

}  // namespace

void register_mergesfl(Catalogue& c) {
  declare_merge_options(c.options);
  c.controls.add(
      "mergesfl", "batch sizes by speed, workers and batch sizes by the mix of their labels",
      [](const ControlContext& context) { return std::make_unique<MergeControl>(context); });
  c.methods.add(
      "mergesfl",
      "one top for the merged features of workers whose batches fit their speed and their "
      "labels (Liao et al. 2024)",
      {.control = "mergesfl",
       .defaults = {
           {"split.iterations", "42"}, {"split.weights", "batch"}, {"split.last_batch", "drop"}}});
  c.methods.add(
      "adasfl",
      "batches that fit the workers' speed, and copies of the top that are averaged in each "
      "iteration (Liao et al. 2024)",
      {.control = "mergesfl",
       .defaults = {{"split.top", "copies"},
                    {"split.iterations", "42"},
                    {"split.last_batch", "drop"},
                    {"split.weights", "uniform"},
                    {"method.selection", "all"},
                    {"method.refinement", "false"},
                    {"method.budget", "0"}}});
  c.methods.add(
      "locfedmix_sl",
      "one top for merged features and mixtures of them, without the workers' local loss (Oh "
      "et al. 2022)",
      {.control = "fixed",
       .defaults = {
           {"split.top", "mixup"}, {"split.iterations", "42"}, {"split.last_batch", "drop"}}});
}

}  // namespace espalier::split
