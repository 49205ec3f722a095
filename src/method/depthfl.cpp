#include "espalier/method/depthfl.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "espalier/method/depths.h"
#include "espalier/method/feddyn.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

class LeadingBlocks : public SubmodelRule {
 public:
  explicit LeadingBlocks(const RuleContext& context) : levels_(context, /*searches=*/false) {}
  Assignment choose(const Experiment&, const SendMoment& moment) override {
    return {levels_.blocks(moment), levels_.width(moment)};
  }

 private:
  DepthLevels levels_;
};

/// sum_i CE(z_i) + kappa sum_i mean over j != i of KL(softmax(z_j) || softmax(z_i)), without a
/// gradient of the teachers z_j; kappa = exp(-5 (1 - min(v, R) / R)^2) of the base version v. With
/// FedDyn's term if method.dynamic_alpha is above 0.
class MutualDistillation : public LocalObjective {
 public:
  explicit MutualDistillation(const RuleContext& context)
      : rise_(context.config.integer("method.kappa_versions")) {
    if (context.config.real("method.dynamic_alpha") > 0) dynamic_.emplace(context.config);
  }

  void begin(const LocalView& view) override {
    if (dynamic_) dynamic_->begin(view);
  }
  void after_backward(const LocalView& view) override {
    if (dynamic_) dynamic_->after_backward(view);
  }
  void end(const LocalView& view) override {
    if (dynamic_) dynamic_->end(view);
  }
  void archive(Archive& archive) override {
    if (dynamic_) dynamic_->archive(archive);
  }

  at::Tensor loss(const LocalView& view, const Batch& batch, const Outputs& outputs) override {
    at::Tensor sum = LocalObjective::loss(view, batch, outputs);
    if (outputs.exits.empty()) return sum;
    const double left = 1 - static_cast<double>(std::min(view.task.base_version, rise_)) /
                                static_cast<double>(rise_);
    const double kappa = std::exp(-5 * left * left);
    std::vector<at::Tensor> logs;
    for (const at::Tensor& logits : outputs.exits) logs.push_back(at::log_softmax(logits, -1));
    logs.push_back(at::log_softmax(outputs.logits, -1));
    const double weight = kappa / static_cast<double>(logs.size() - 1);
    for (std::size_t student = 0; student < logs.size(); ++student) {
      for (std::size_t teacher = 0; teacher < logs.size(); ++teacher) {
        if (teacher == student) continue;
        sum = sum + divergence(logs[teacher].detach(), logs[student]) * weight;
      }
    }
    return sum;
  }

  // The tensors of every pair of classifiers.
  std::int64_t extra_bytes(const Experiment& experiment, const Submodel& submodel,
                           std::int64_t batch) const override {
    constexpr std::int64_t kPerBatch = 64;
    return kPerBatch * logits_bytes(experiment, batch) +
           (dynamic_ ? DynamicTerm::extra_bytes(experiment, submodel) : 0);
  }

 private:
  std::int64_t rise_;
  std::optional<DynamicTerm> dynamic_;
};

}  // namespace

void register_depthfl(Catalogue& c) {
  declare_depth_options(c.options);
  declare_dynamic_option(c.options);
  c.options.add({"method.kappa_versions", OptionType::integer, "300",
                 "objective mutual_distillation: number of versions in which its weight rises to 1",
                 "versions", 1, 1e12});
  c.submodels.add("leading_blocks", "leading blocks at full width, by the client's level",
                  {make_rule<LeadingBlocks>});
  c.objectives.add("mutual_distillation",
                   "cross-entropy of every classifier; all classifiers teach each other",
                   make_rule<MutualDistillation>);
  Method method;
  method.submodel = "leading_blocks";
  method.merge = "dynamic";
  method.objective = "mutual_distillation";
  method.defaults = {{"method.widths", "1, 0.75, 0.5, 0.25"}};
  c.methods.add("depthfl",
                "depth by capability, mutual self-distillation, FedDyn (Kim et al. 2023)", method);
}

}  // namespace espalier::rounds
