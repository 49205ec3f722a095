#include "espalier/method/fedrolex.h"

#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"

namespace espalier::rounds {
namespace {

class RollingUnits : public SubmodelRule {
 public:
  explicit RollingUnits(const RuleContext& context)
      : levels_(context), backward_(context.config.text("method.roll") == "backward") {}
  Assignment choose(const Experiment& experiment, const SendMoment& moment) override {
    const double width = levels_.width(moment);
    return {window_submodel(*experiment.model.layout, width,
                            backward_ ? -moment.version : moment.version),
            width};
  }

 private:
  WidthLevels levels_;
  bool backward_;
};

}  // namespace

void register_fedrolex(Catalogue& c) {
  declare_width_options(c.options);
  c.options.add_choice("method.roll", "forward",
                       "submodel rolling: direction of the window: forward, from unit v on for "
                       "base version v, as in "
                       "the paper; backward, from unit -v on, as in the authors' code",
                       {"forward", "backward"});
  c.submodels.add("rolling", "window of units that moves by one unit each round",
                  {make_rule<RollingUnits>});
  Method method;
  method.submodel = "rolling";
  method.merge = "masked_average";
  method.objective = "masked_cross_entropy";
  method.defaults = {{"method.levels", "dynamic"}};
  c.methods.add("fedrolex", "rolling window of units by width level (Alam et al. 2022)", method);
}

}  // namespace espalier::rounds
