#include "espalier/method/fedrolex.h"

#include "espalier/method/widths.h"

namespace espalier::rounds {
namespace {

class RollingUnits : public SubmodelRule {
 public:
  RollingUnits(const Config& config, const Experiment& experiment, const PeakBytes& peak)
      : levels_(config, experiment, peak), backward_(config.text("method.roll") == "backward") {}
  Assignment choose(const Experiment& experiment, const SendMoment& moment) override {
    const double share = levels_.share(moment);
    return {rolling_submodel(*experiment.model.layout, share,
                             backward_ ? -moment.version : moment.version),
            share};
  }

 private:
  WidthLevels levels_;
  bool backward_;
};

}  // namespace

void register_fedrolex(Catalogue& c) {
  declare_width_options(c.options);
  c.options.add_choice(
      "method.roll", "forward",
      "submodel rolling: the window begins at unit v of base version v, as in the paper; "
      "or backward, at unit -v, as in the authors' code",
      {"forward", "backward"});
  c.submodels.add("rolling", "a window of units that moves by one each round",
                  {[](const Config& config, const Experiment& experiment, const PeakBytes& peak) {
                    return std::make_unique<RollingUnits>(config, experiment, peak);
                  }});
  Method method;
  method.submodel = "rolling";
  method.merge = "masked_average";
  method.objective = "masked_cross_entropy";
  method.defaults = {{"method.levels", "dynamic"}};
  c.methods.add("fedrolex", "rolling window of units by width level (Alam et al. 2022)", method);
}

}  // namespace espalier::rounds
