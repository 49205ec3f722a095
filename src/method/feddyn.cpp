#include "espalier/method/feddyn.h"

#include <c10/core/GradMode.h>

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {

namespace {

/// The client's number of samples over the mean of all clients.
double relative_samples(const Experiment& experiment, std::int64_t client) {
  std::int64_t all = 0;
  for (std::int64_t c = 0; c < experiment.fleet->size(); ++c) all += experiment.samples_of(c);
  const std::int64_t own = std::max<std::int64_t>(1, experiment.samples_of(client));
  return static_cast<double>(own) * static_cast<double>(experiment.fleet->size()) /
         static_cast<double>(all);
}

}  // namespace

DynamicTerm::DynamicTerm(const Config& config)
    : alpha_(config.real("method.dynamic_alpha")),
      by_samples_(config.boolean("method.alpha_by_samples")) {}

void DynamicTerm::begin(const LocalView& view) {
  c10::NoGradGuard no_grad;
  own_alpha_ = alpha_;
  if (by_samples_) own_alpha_ /= relative_samples(view.experiment, view.task.client);
  sent_ = view.parameters.trainable().clone();
  memory_ = at::zeros_like(sent_);
  if (code_.empty()) return;
  PlanCache& plans = *view.experiment.plans;
  const BufferLayout& own = view.parameters.buffer_layout();
  const auto dense =
      plans.buffer_layout(Submodel::decode(*view.experiment.model.layout, code_), Packing::shared);
  const Range trained = own.kind_range(Kind::trainable);
  ESPALIER_CHECK(trained.begin == 0, "trained values begin at {}", trained.begin);
  plans.plan(*dense, own, nullptr, kTrained)->copy(state_.data(), memory_.data_ptr<float>());
}

void DynamicTerm::after_backward(const LocalView& view) const {
  c10::NoGradGuard no_grad;
  const at::Tensor& gradients = view.parameters.gradients();
  gradients.sub_(memory_);
  gradients.add_(view.parameters.trainable(), own_alpha_);
  gradients.sub_(sent_, own_alpha_);
}

void DynamicTerm::end(const LocalView& view) {
  c10::NoGradGuard no_grad;
  memory_.sub_(view.parameters.trainable(), own_alpha_);
  memory_.add_(sent_, own_alpha_);
  PlanCache& plans = *view.experiment.plans;
  const BufferLayout& own = view.parameters.buffer_layout();
  const auto dense = plans.buffer_layout(own.submodel(), Packing::shared);
  code_ = own.submodel().encode();
  state_.resize(static_cast<std::size_t>(dense->kind_range(Kind::trainable).size()));
  plans.plan(own, *dense, nullptr, kTrained)->copy(memory_.data_ptr<float>(), state_.data());
}

void DynamicTerm::archive(Archive& archive) {
  archive.value("submodel", code_);
  archive_floats(archive, "memory", state_);
}

std::int64_t DynamicTerm::extra_bytes(const Experiment& experiment, const Submodel& submodel) {
  return 2 * weight_bytes(experiment, submodel);
}

void declare_dynamic_option(OptionTable& table) {
  table.add({"method.dynamic_alpha", OptionType::real, "0.1",
             "objectives dynamic and mutual_distillation, merge dynamic: weight of FedDyn's "
             "correction; 0 = none",
             "", 0, 1e6});
  table.add({"method.alpha_by_samples", OptionType::boolean, "false",
             "objectives dynamic and mutual_distillation: divide a client's alpha by its number of "
             "samples over the mean of all clients, as in FedDyn's own code"});
}

namespace {

/// `rule`: the rule that needs it; `without`: settings that replace that rule.
double positive_alpha(const Config& config, const std::string& rule, const std::string& without) {
  const double alpha = config.real("method.dynamic_alpha");
  if (alpha > 0) return alpha;
  throw InputError(formatted(
      "method.dynamic_alpha is 0, so the {} has no effect; set it above 0, or {}", rule, without));
}

class Dynamic : public LocalObjective {
 public:
  explicit Dynamic(const RuleContext& context) : term_(context.config) {
    positive_alpha(context.config, "objective dynamic",
                   "method.objective = cross_entropy and method.merge = average");
  }
  void begin(const LocalView& view) override { term_.begin(view); }
  void after_backward(const LocalView& view) override { term_.after_backward(view); }
  void end(const LocalView& view) override { term_.end(view); }
  void archive(Archive& archive) override { term_.archive(archive); }
  std::int64_t extra_bytes(const Experiment& experiment, const Submodel& submodel,
                           std::int64_t) const override {
    return DynamicTerm::extra_bytes(experiment, submodel);
  }

 private:
  DynamicTerm term_;
};

/// h <- h - alpha / N sum_i (w_i - w_sent,i) over the holders of each parameter, with N the number
/// of all clients, then w <- mean_i w_i - h / alpha.
class DynamicMerge : public MergeRule {
 public:
  explicit DynamicMerge(const RuleContext& context)
      : alpha_(positive_alpha(context.config, "merge rule dynamic", "method.merge = average")),
        clients_(static_cast<double>(context.experiment.fleet->size())) {}

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    memory_.resize(static_cast<std::size_t>(model.buffer_layout().size_without_frozen()), 0.0F);
    std::vector<Holding> trained, sent;
    for (Update& update : updates) {
      update.weight = 1;
      const auto [end, start] = holdings_of(experiment, model, update);
      trained.push_back(end);
      sent.push_back(start);
    }
    BlockSums ends, starts;
    for_each_block(model, [&](Range range) {
      ends.sum(range, trained);
      starts.sum(range, sent);
      for (std::size_t i = 0; i < static_cast<std::size_t>(range.size()); ++i) {
        if (ends.denominator[i] == 0) continue;
        const auto at = static_cast<std::size_t>(range.begin) + i;
        const double moved = (ends.numerator[i] - starts.numerator[i]) / clients_;
        memory_[at] = static_cast<float>(memory_[at] - alpha_ * moved);
        model.data()[at] =
            static_cast<float>(ends.numerator[i] / ends.denominator[i] - memory_[at] / alpha_);
      }
    });
  }

  void archive(Archive& archive) override { archive_floats(archive, "memory", memory_); }

 private:
  double alpha_;
  double clients_;
  std::vector<float> memory_;  // h, over the whole model
};

}  // namespace

void register_feddyn(Catalogue& c) {
  declare_dynamic_option(c.options);
  c.objectives.add("dynamic", "cross-entropy and FedDyn's memory of the client's differences",
                   make_rule<Dynamic>);
  c.merges.add("dynamic", "mean over holders, shifted by FedDyn's memory of all differences",
               make_rule<DynamicMerge>);
  Method method;
  method.merge = "dynamic";
  method.objective = "dynamic";
  c.methods.add("feddyn", "dynamic regularisation on clients and server (Acar et al. 2021)",
                method);
}

}  // namespace espalier::rounds
