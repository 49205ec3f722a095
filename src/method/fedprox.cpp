#include "espalier/method/fedprox.h"

#include <c10/core/GradMode.h>

namespace espalier::rounds {
namespace {

class Proximal : public LocalObjective {
 public:
  explicit Proximal(const RuleContext& context) : mu_(context.config.real("method.mu")) {}

  void begin(const LocalView& view) override {
    c10::NoGradGuard no_grad;
    received_ = view.parameters.trainable().clone();
  }
  void after_backward(const LocalView& view) override {
    c10::NoGradGuard no_grad;
    const at::Tensor& gradients = view.parameters.gradients();
    gradients.add_(view.parameters.trainable(), mu_);
    gradients.add_(received_, -mu_);
  }
  std::int64_t extra_bytes(const Experiment& experiment, const Submodel& submodel,
                           std::int64_t) const override {
    return weight_bytes(experiment, submodel);
  }

 private:
  double mu_;
  at::Tensor received_;
};

}  // namespace

void register_fedprox(Catalogue& c) {
  c.options.add({"method.mu", OptionType::real, "0.01",
                 "objective proximal: weight of the proximal term", "", 0, 1e6});
  c.objectives.add("proximal", "cross-entropy and mu/2 |w - w_received|^2", make_rule<Proximal>);
  Method method;
  method.objective = "proximal";
  c.methods.add("fedprox", "FedAvg with a proximal term (Li et al. 2020)", method);
}

}  // namespace espalier::rounds
