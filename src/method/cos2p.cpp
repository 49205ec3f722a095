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

/// The blocks that a client's share allows (spec 2.1), of each layer the units of its mask (2.2);
/// both whole at full capability (6.2, 9).
class MaskedDepth : public SubmodelRule {
 public:
  explicit MaskedDepth(const RuleContext& context)
      : model_(context.experiment.model),
        searches_(context.config.integer("method.mask_tasks")),
        again_(context.config.integer("method.remask_every")),
        levels_(context, /*searches=*/true) {
    if (model_.masked.empty()) {
      throw InputError(formatted(
          "method.submodel = masked_depth: model.name = {} has no units that masks choose from; "
          "take vit, encoder, gpt or cnn",
          model_.name));
    }
    if (context.config.text("method.levels") == "dynamic") {
      throw InputError(
          "method.submodel = masked_depth: a client's mask is of its own share, which cannot "
          "change; set method.levels = fixed");
    }
  }

  Assignment choose(const Experiment&, const SendMoment& moment) override {
    const double width = levels_.width(moment);
    Submodel submodel = levels_.blocks(moment);
    if (width >= 1) return {std::move(submodel), width};
    const auto known = masks_.find(moment.client);
    if (searches_now(known == masks_.end() ? nullptr : &known->second, submodel, moment)) {
      return {std::move(submodel), width, width};
    }
    for (const MaskedAxis& masked : model_.masked) {
      if (!submodel.has_block(masked.block)) continue;
      submodel.keep(masked.axis, all_units(known->second.units, masked.axis));
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
    Submodel units;                      ///< of all blocks, whole where nothing was chosen yet
    std::vector<std::int64_t> searches;  ///< by block: how often its units were searched for
    std::int64_t last_search = 0;        ///< number of that task of the client
  };

  /// The kept units, also of an axis that is whole.
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
             mask->searches[static_cast<std::size_t>(masked.block)] < searches_;
    });
    return missing || (again_ > 0 && moment.nth_task - mask->last_search >= again_);
  }

  const Model& model_;
  std::int64_t searches_;
  std::int64_t again_;
  DepthLevels levels_;
  std::map<std::int64_t, Mask> masks_;
};

/// Deep supervision, and the deepest classifier as teacher of the others (spec 2.3):
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
      const at::Tensor apart =
          literal_ ? (target.exp() * (target - own)).mean() : divergence(target, own);
      sum = sum + apart * (weight_ * temperature_ * temperature_);
    }
    return sum;
  }

  // For each student what log-softmax, difference and product keep, and their gradients.
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

/// Importance over drift (spec 2.5, 6.2):
///   u = (|trained - sent|_1 / r) / (1 + drift),   gamma = u / sum u,
/// and the model moves by sum gamma (trained - sent): over all updates (as in the code), or for
/// each parameter over its holders and times the mean of their 1 / (1 + drift).
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
    if (!(sum > 0)) return;  // nobody moved
    std::vector<Holding> trained, sent, discounted;
    // Where weights are divided out again: in units of the first, so that equal ones add bare
    // values.
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

  /// How far the model has moved since the update's base version, in its own parameters.
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
    for (const Plan::Run& run : plan->runs()) {
      const float* const now = model.data() + run.destination;
      for (std::int64_t i = 0; i < run.length; ++i) {
        const double before = sent[run.source + i];
        distance += std::abs(static_cast<double>(now[i]) - before);
        norm += std::abs(before);
      }
    }
    if (drift_ == Drift::literal) return distance;
    return norm > 0 ? drift_scale_ * distance / norm : 0;
  }

  /// Into [median / clip, median x clip].
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
  c.options.add({"method.mask_tasks", OptionType::integer, "2",
                 "submodel masked_depth: a client searches in its first so many tasks; the mask of "
                 "the last one stays",
                 "", 1, 1e6});
  c.options.add({"method.remask_every", OptionType::integer, "0",
                 "submodel masked_depth: and again so many tasks after its last search; 0 = never",
                 "", 0, 1e6});
  c.submodels.add("masked_depth", "leading blocks, and of each layer the units of a learned mask",
                  {make_rule<MaskedDepth>, "masks"});
}

void add_objective(Catalogue& c) {
  c.options.add({"method.deep_supervision", OptionType::boolean, "true",
                 "objective self_distillation: every kept classifier has a cross-entropy of its "
                 "own, not only the deepest"});
  c.options.add_choice(
      "method.distillation", "mean",
      "objective self_distillation: divergence as the mean over samples with the teacher "
      "held still; literal, as in the authors' code, over samples and classes with a "
      "moving teacher; or off",
      {"mean", "literal", "off"});
  c.options.add({"method.kd_weight", OptionType::real, "0.5",
                 "objective self_distillation: weight of the divergences (alpha)", "", 0, 1e6});
  c.options.add({"method.kd_temperature", OptionType::real, "3",
                 "objective self_distillation: temperature of both sides", "", 1e-3, 1e3});
  c.options.add({"method.kd_start", OptionType::integer, "10",
                 "objective self_distillation: first base version that is distilled from",
                 "versions", 0, 1e12});
  c.objectives.add("self_distillation",
                   "cross-entropy of every classifier; the deepest teaches the others",
                   make_rule<SelfDistillation>);
}

void add_merge(Catalogue& c) {
  c.options.add({"method.importance", OptionType::boolean, "true",
                 "merge importance_drift: larger differences weigh more"});
  c.options.add({"method.capability", OptionType::boolean, "true",
                 "merge importance_drift: weights are divided by the client's width share"});
  c.options.add_choice(
      "method.drift", "relative",
      "merge importance_drift: how far the model moved since the update's base version: "
      "literal, the sum of absolute changes (as in the authors' code); relative, its "
      "share of the sum of absolute values times method.drift_scale; polynomial, "
      "sqrt(1 + staleness) - 1; none",
      {"relative", "literal", "polynomial", "none"});
  c.options.add({"method.drift_scale", OptionType::real, "100",
                 "drift relative: factor of the share", "", 0, 1e9});
  c.options.add(
      {"method.importance_clip", OptionType::real, "0",
       "merge importance_drift: sizes of differences are brought to within this factor of "
       "their median; 0 = as they are",
       "", 0, 1e9});
  c.options.add_choice(
      "method.normalise", "holders",
      "merge importance_drift: weights add up to one over the holders of each parameter, "
      "or over all updates (as in the authors' code)",
      {"holders", "updates"});
  c.merges.add("importance_drift", "differences, by their size over the model's drift since",
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
