#include "espalier/method/cos2p.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "espalier/method/depths.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

/// The blocks that a client's level allows, with the units that its mask selects; the whole model
/// at full capability (docs/methods/cos2p.md, "What a client trains").
class MaskedDepth : public SubmodelRule {
 public:
  explicit MaskedDepth(const RuleContext& context)
      : model_(context.experiment.model),
        mask_tasks_(context.config.integer("method.mask_tasks")),
        remask_every_(context.config.integer("method.remask_every")),
        levels_(context, /*searches=*/true) {
    if (model_.masked.empty()) {
      throw InputError(formatted(
          "method.submodel = masked_depth: model.name = {} has no units that a mask can select; "
          "use vit, encoder, gpt or cnn",
          model_.name));
    }
    if (context.config.text("method.levels") == "dynamic") {
      throw InputError(
          "method.submodel = masked_depth: a client's mask has the size of its width, so the width "
          "cannot change; set method.levels = fixed");
    }
  }

  Assignment choose(const Experiment&, const SendMoment& moment) override {
    const double width = levels_.width(moment);
    Submodel submodel = levels_.blocks(moment);
    if (width >= 1) return {std::move(submodel), width};
    const auto mask = masks_.find(moment.client);
    if (searches_now(mask == masks_.end() ? nullptr : &mask->second, submodel, moment)) {
      return {std::move(submodel), width, width};
    }
    for (const MaskedAxis& masked : model_.masked) {
      if (!submodel.has_block(masked.block)) continue;
      submodel.keep(masked.axis, all_units(mask->second.units, masked.axis));
    }
    return {std::move(submodel), width};
  }

  void observe(const Experiment&, const TaskReport& task) override {
    if (!task.searched || task.outcome == Outcome::rejected) return;
    const Submodel& found = task.submodel;
    auto [place, added] = masks_.try_emplace(task.client, Mask{Submodel::full(*model_.layout), {}});
    Mask& mask = place->second;
    if (added) mask.searches.assign(model_.layout->blocks.size(), 0);
    for (const MaskedAxis& masked : model_.masked) {
      if (found.has_block(masked.block))
        mask.units.keep(masked.axis, all_units(found, masked.axis));
    }
    for (int block = 0; block < found.blocks(); ++block) {
      if (found.has_block(block)) ++mask.searches[static_cast<std::size_t>(block)];
    }
    mask.last_search = task.nth_task;
  }

  void archive(Archive& archive) override {
    std::vector<std::int64_t> clients;
    for (const auto& [client, mask] : masks_) clients.push_back(client);
    archive.value("clients", clients);
    const Layout& layout = *model_.layout;
    for (const std::int64_t client : clients) {
      Mask& mask = masks_.try_emplace(client, Mask{Submodel::full(layout), {}}).first->second;
      archive.open(std::to_string(client).c_str());
      std::vector<std::int64_t> code = mask.units.encode();
      archive.value("units", code);
      mask.units = Submodel::decode(layout, code);
      archive.value("searches", mask.searches);
      archive.value("last_search", mask.last_search);
      archive.close();
    }
  }

 private:
  struct Mask {
    Submodel units;                      ///< of all blocks; whole axes until the first search
    std::vector<std::int64_t> searches;  ///< by block: number of searches of its units
    std::int64_t last_search = 0;        ///< number of the client's last task with a search
  };

  /// The kept units, written out also for a whole axis.
  static std::vector<std::int64_t> all_units(const Submodel& submodel, int axis) {
    const auto cut = submodel.units(axis);
    std::vector<std::int64_t> units(cut.begin(), cut.end());
    if (cut.empty()) {
      units.resize(static_cast<std::size_t>(submodel.full_width(axis)));
      std::iota(units.begin(), units.end(), 0);
    }
    return units;
  }

  bool searches_now(const Mask* mask, const Submodel& submodel, const SendMoment& moment) const {
    if (mask == nullptr) return true;
    const bool missing = std::ranges::any_of(model_.masked, [&](const MaskedAxis& masked) {
      return submodel.has_block(masked.block) &&
             mask->searches[static_cast<std::size_t>(masked.block)] < mask_tasks_;
    });
    return missing || (remask_every_ > 0 && moment.nth_task - mask->last_search >= remask_every_);
  }

  const Model& model_;
  std::int64_t mask_tasks_;
  std::int64_t remask_every_;
  DepthLevels levels_;
  std::map<std::int64_t, Mask> masks_;
};

/// Deep supervision, and the deepest classifier as teacher of the others (docs/methods/cos2p.md,
/// "What a client minimises"):
///   CE(z_K) + sum_k [CE(z_k) + alpha T^2 KL(softmax(z_K / T) || softmax(z_k / T))].
class SelfDistillation : public LocalObjective {
 public:
  explicit SelfDistillation(const RuleContext& context)
      : supervised_(context.config.boolean("method.deep_supervision")),
        literal_(context.config.text("method.distillation") == "literal"),
        weight_(context.config.text("method.distillation") == "off"
                    ? 0
                    : context.config.real("method.kd_weight")),
        start_(weight_ > 0 ? context.config.integer("method.kd_start") : 0),
        temperature_(weight_ > 0 ? context.config.real("method.kd_temperature") : 1) {}

  at::Tensor loss(const LocalView& view, const Batch& batch, const Outputs& outputs) override {
    at::Tensor sum = supervised_ ? LocalObjective::loss(view, batch, outputs)
                                 : cross_entropy(outputs.logits, batch.labels,
                                                 view.experiment.train.label_smoothing);
    if (weight_ == 0 || outputs.exits.empty() || view.task.base_version < start_) return sum;
    const at::Tensor teacher = literal_ ? outputs.logits : outputs.logits.detach();
    const at::Tensor target = at::log_softmax(teacher / temperature_, -1);
    for (const at::Tensor& student : outputs.exits) {
      const at::Tensor own = at::log_softmax(student / temperature_, -1);
      const at::Tensor term =
          literal_ ? (target.exp() * (target - own)).mean() : divergence(target, own);
      sum = sum + term * (weight_ * temperature_ * temperature_);
    }
    return sum;
  }

  // For each student the tensors of log-softmax, difference and product, and their gradients.
  std::int64_t extra_bytes(const Experiment& experiment, const Submodel&,
                           std::int64_t batch) const override {
    constexpr std::int64_t kPerBatch = 32;
    return weight_ > 0 ? kPerBatch * logits_bytes(experiment, batch) : 0;
  }

 private:
  bool supervised_;
  bool literal_;
  double weight_;
  std::int64_t start_;
  double temperature_;
};

enum class Drift { none, literal, relative, polynomial };

/// Importance over drift (docs/methods/cos2p.md, "How updates are merged"):
///   u = (|trained - sent|_1 / r) / (1 + drift),   gamma = u / sum u.
/// The model moves by sum gamma (trained - sent): over all updates (as in the authors' code), or
/// for each parameter over its holders, multiplied by the mean of their 1 / (1 + drift).
class ImportanceOverDrift : public MergeRule {
 public:
  explicit ImportanceOverDrift(const RuleContext& context)
      : importance_(context.config.boolean("method.importance")),
        capability_(context.config.boolean("method.capability")),
        by_holders_(context.config.text("method.normalise") == "holders"),
        drift_(drift_of(context.config.text("method.drift"))),
        drift_scale_(drift_ == Drift::relative ? context.config.real("method.drift_scale") : 0),
        clip_(importance_ ? context.config.real("method.importance_clip") : 0) {}

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    std::vector<double> sizes, discounts;
    for (const Update& update : updates) {
      sizes.push_back(importance_ ? moved(update) : 1);
      discounts.push_back(1 / (1 + drift(experiment, model, update)));
    }
    clip(sizes);
    double sum = 0;
    for (std::size_t i = 0; i < updates.size(); ++i) {
      const double capability = capability_ ? updates[i].width : 1;
      updates[i].weight = sizes[i] / capability * discounts[i];
      sum += updates[i].weight;
    }
    if (!(sum > 0)) return;  // no update changed a value
    std::vector<Holding> trained, sent, discounted;
    // Over holders, divide by the first weight, so that equal weights are exactly 1.
    const double unit = by_holders_ ? updates.front().weight / sum : 1;
    for (std::size_t i = 0; i < updates.size(); ++i) {
      Update& update = updates[i];
      update.weight /= sum;
      auto [after, before] = holdings_of(experiment, model, update);
      after.weight = before.weight = update.weight / unit;
      trained.push_back(after);
      sent.push_back(before);
      before.weight = discounts[i];
      discounted.push_back(before);
    }
    move(model, trained, sent, discounted);
  }

 private:
  static Drift drift_of(const std::string& name) {
    return name == "none"         ? Drift::none
           : name == "literal"    ? Drift::literal
           : name == "polynomial" ? Drift::polynomial
                                  : Drift::relative;
  }

  static double moved(const Update& update) {
    const std::span<const float> trained = floats_of(*update.values);
    const std::span<const float> sent = floats_of(*update.sent);
    double sum = 0;
    for (std::int64_t i = 0; i < update.buffer_layout->count(Kind::trainable); ++i) {
      sum += std::abs(static_cast<double>(trained[i]) - static_cast<double>(sent[i]));
    }
    return sum;
  }

  /// Drift of the model since the update's base version, on the update's own parameters.
  double drift(const Experiment& experiment, const Parameters& model, const Update& update) const {
    if (drift_ == Drift::none || update.staleness == 0) return 0;
    if (drift_ == Drift::polynomial) {
      return std::sqrt(1 + static_cast<double>(update.staleness)) - 1;
    }
    const auto plan =
        experiment.plans->plan(*update.buffer_layout, model.buffer_layout(), nullptr, kTrained);
    const std::span<const float> sent = floats_of(*update.sent);
    double distance = 0;
    double norm = 0;
    const float* const now = model.data();
    plan->for_each_value([&](std::int64_t source, std::int64_t destination) {
      const double before = sent[source];
      distance += std::abs(static_cast<double>(now[destination]) - before);
      norm += std::abs(before);
    });
    if (drift_ == Drift::literal) return distance;
    return norm > 0 ? drift_scale_ * distance / norm : 0;
  }

  /// Limits the sizes to [median / clip, median x clip].
  void clip(std::vector<double>& sizes) const {
    if (clip_ <= 1) return;
    std::vector<double> sorted = sizes;
    std::ranges::sort(sorted);
    const std::size_t half = sorted.size() / 2;
    const double median =
        sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
    for (double& size : sizes) size = std::clamp(size, median / clip_, median * clip_);
  }

  void move(Parameters& model, std::span<const Holding> trained, std::span<const Holding> sent,
            std::span<const Holding> discounted) const {
    std::vector<Holding> counted(discounted.begin(), discounted.end());
    for (Holding& holding : counted) holding.weight = 1;
    const bool discounts =
        std::ranges::any_of(discounted, [](const Holding& holding) { return holding.weight != 1; });
    auto after = std::make_unique<BlockSums>();
    auto before = std::make_unique<BlockSums>();
    auto kept = std::make_unique<BlockSums>();
    auto holders = std::make_unique<BlockSums>();
    float* const values = model.data();
    for_each_block(model, [&](Range range) {
      after->sum(range, trained);
      before->sum(range, sent);
      if (by_holders_ && discounts) {
        kept->sum(range, discounted);
        holders->sum(range, counted);
      }
      for (std::size_t i = 0; i < static_cast<std::size_t>(range.size()); ++i) {
        const double weight = before->denominator[i];
        if (!(weight > 0)) continue;
        float& value = values[static_cast<std::size_t>(range.begin) + i];
        const double present = value;
        if (!by_holders_) {
          value = static_cast<float>((present - before->numerator[i]) + after->numerator[i]);
          continue;
        }
        const double mean = discounts ? kept->denominator[i] / holders->denominator[i] : 1;
        value = static_cast<float>((present - mean * (before->numerator[i] / weight)) +
                                   mean * (after->numerator[i] / weight));
      }
    });
  }

  bool importance_;
  bool capability_;
  bool by_holders_;
  Drift drift_;
  double drift_scale_;
  double clip_;
};

void add_submodel_rule(Catalogue& c) {
  c.options.add(
      {"method.mask_tasks", OptionType::integer, "2",
       "submodel masked_depth: number of a client's first tasks with a search; the last of "
       "them sets the mask",
       "", 1, 1e6});
  c.options.add({"method.remask_every", OptionType::integer, "0",
                 "submodel masked_depth: number of tasks between two later searches; 0 = no later "
                 "search",
                 "", 0, 1e6});
  c.submodels.add("masked_depth", "leading blocks with the units of a learned mask",
                  {make_rule<MaskedDepth>, "masks"});
}

void add_objective(Catalogue& c) {
  c.options.add({"method.deep_supervision", OptionType::boolean, "true",
                 "objective self_distillation: cross-entropy of every kept classifier, not only of "
                 "the deepest"});
  c.options.add_choice(
      "method.distillation", "mean",
      "objective self_distillation: divergence as the mean over samples without a gradient of the "
      "teacher; literal, as in the authors' code, as the mean over samples and classes with that "
      "gradient; or off",
      {"mean", "literal", "off"});
  c.options.add({"method.kd_weight", OptionType::real, "0.5",
                 "objective self_distillation: weight of the divergences (alpha)", "", 0, 1e6});
  c.options.add({"method.kd_temperature", OptionType::real, "3",
                 "objective self_distillation: temperature of teacher and students", "", 1e-3,
                 1e3});
  c.options.add({"method.kd_start", OptionType::integer, "10",
                 "objective self_distillation: first base version with distillation", "versions", 0,
                 1e12});
  c.objectives.add("self_distillation",
                   "cross-entropy of every classifier; the deepest teaches the others",
                   make_rule<SelfDistillation>);
}

void add_merge(Catalogue& c) {
  c.options.add({"method.importance", OptionType::boolean, "true",
                 "merge importance_drift: multiply the weight by the size of the difference"});
  c.options.add({"method.capability", OptionType::boolean, "true",
                 "merge importance_drift: divide the weight by the client's width"});
  c.options.add_choice(
      "method.drift", "relative",
      "merge importance_drift: drift of the model since the update's base version: literal, the "
      "sum of absolute changes (as in the authors' code); relative, this sum divided by the sum of "
      "absolute values and multiplied by method.drift_scale; polynomial, sqrt(1 + staleness) - 1; "
      "none",
      {"relative", "literal", "polynomial", "none"});
  c.options.add({"method.drift_scale", OptionType::real, "100",
                 "merge importance_drift: factor of the relative drift", "", 0, 1e9});
  c.options.add(
      {"method.importance_clip", OptionType::real, "0",
       "merge importance_drift: limit of the sizes of differences, as a factor of their median; "
       "0 = no limit",
       "", 0, 1e9});
  c.options.add_choice(
      "method.normalise", "holders",
      "merge importance_drift: sum of weights that is one, over the holders of each parameter or "
      "over all updates (as in the authors' code)",
      {"holders", "updates"});
  c.merges.add("importance_drift", "mean difference, weighted by size over drift of the model",
               make_rule<ImportanceOverDrift>);
}

}  // namespace

void register_cos2p(Catalogue& c) {
  declare_depth_options(c.options);
  add_submodel_rule(c);
  add_objective(c);
  add_merge(c);
  Method method;
  method.submodel = "masked_depth";
  method.window = "semi_async";
  method.merge = "importance_drift";
  method.objective = "self_distillation";
  method.defaults = {{"method.widths", "1, 0.75, 0.5, 0.25"},
                     {"window.grace_s", "10"},
                     {"window.max_staleness", "10"},
                     {"window.stale", "drop"},
                     {"train.optimizer", "adan"},
                     {"train.optimizer_state", "keep"},
                     {"train.lr", "0.00025"},
                     {"train.weight_decay", "0.05"},
                     {"train.epochs", "5"}};
  c.methods.add("cos2p", "learned masks, depth by capability, self-distillation (Li et al. 2024)",
                method);
}

}  // namespace espalier::rounds
