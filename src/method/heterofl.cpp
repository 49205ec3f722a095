#include "espalier/method/heterofl.h"

#include <unordered_map>

#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

class LeadingUnits : public SubmodelRule {
 public:
  explicit LeadingUnits(const RuleContext& context) : levels_(context) {}
  Assignment choose(const Experiment& experiment, const SendMoment& moment) override {
    const double width = levels_.width(moment);
    return {window_submodel(*experiment.model.layout, width, 0), width};
  }

 private:
  WidthLevels levels_;
};

/// Scaler and masked cross-entropy: logits of classes without a sample on the client become zero.
class MaskedCrossEntropy : public LocalObjective {
 public:
  explicit MaskedCrossEntropy(const RuleContext& context)
      : scaler_(context.config.boolean("method.scaler")),
        masked_(context.config.boolean("method.masked_loss")) {}

  void begin(const LocalView& view) override {
    if (!masked_) return;
    const Experiment& e = view.experiment;
    absent_ = at::ones({e.model.shape.classes}, at::kBool);
    for (std::int64_t c : e.partition->classes(view.task.client, *e.data.train)) {
      absent_.data_ptr<bool>()[c] = false;
    }
  }
  void prepare(const LocalView&, Context& context) override { context.scaler = scaler_; }
  at::Tensor loss(const LocalView& view, const Batch& batch, const Outputs& outputs) override {
    if (!masked_) return LocalObjective::loss(view, batch, outputs);
    Outputs masked{outputs.logits.masked_fill(absent_, 0.0), outputs.exits};
    for (at::Tensor& logits : masked.exits) logits = logits.masked_fill(absent_, 0.0);
    return LocalObjective::loss(view, batch, masked);
  }
  // The mask of classes and the masked logits of a batch, which are small.
  std::int64_t extra_bytes(const Experiment&, const Submodel&, std::int64_t) const override {
    return masked_ ? 4096 : 0;
  }

 private:
  bool scaler_;
  bool masked_;
  at::Tensor absent_;
};

/// Rows of the output layer are merged only from clients that have the class.
class MaskedAverage : public AverageMerge {
 public:
  explicit MaskedAverage(const RuleContext& context)
      : AverageMerge(context), masked_(context.config.boolean("method.masked_loss")) {}

  const Submodel* restriction(const Experiment& e, const Update& update) const override {
    if (!masked_) return nullptr;
    auto [place, added] = present_.try_emplace(update.client, Submodel::full(*e.model.layout));
    if (added) {
      place->second.keep(e.model.class_axis, e.partition->classes(update.client, *e.data.train));
    }
    return &place->second;
  }

 private:
  bool masked_;
  mutable std::unordered_map<std::int64_t, Submodel> present_;
};

}  // namespace

void register_heterofl(Catalogue& c) {
  declare_width_options(c.options);
  c.options.add(
      {"method.scaler", OptionType::boolean, "true",
       "objectives masked_cross_entropy and contrastive: divide the outputs of narrowed layers by "
       "their kept "
       "fraction in training"});
  c.options.add(
      {"method.masked_loss", OptionType::boolean, "true",
       "leave classes without a sample on a client out of its loss, and their output rows "
       "out of the merge"});
  c.submodels.add("static", "first units of every layer, by the client's width",
                  {make_rule<LeadingUnits>});
  c.objectives.add("masked_cross_entropy",
                   "cross-entropy over the client's own classes, with scaler",
                   make_rule<MaskedCrossEntropy>);
  c.merges.add("masked_average",
               "weighted mean, with output rows only from clients that have the class",
               make_rule<MaskedAverage>);
  Method method;
  method.submodel = "static";
  method.merge = "masked_average";
  method.objective = "masked_cross_entropy";
  c.methods.add("heterofl", "leading units by width level, masked average (Diao et al. 2021)",
                method);
}

}  // namespace espalier::rounds
