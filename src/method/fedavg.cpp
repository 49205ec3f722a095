#include "espalier/method/fedavg.h"

#include "espalier/method/widths.h"
#include "espalier/protocol/rounds/merge.h"

namespace espalier::rounds {
namespace {

class FullModel : public SubmodelRule {
 public:
  explicit FullModel(const RuleContext& context) { refuse_fitted_widths(context.config); }
  Assignment choose(const Experiment& experiment, const SendMoment&) override {
    return {Submodel::full(*experiment.model.layout)};
  }
};

}  // namespace

void register_fedavg(Catalogue& c) {
  declare_average_options(c.options);
  declare_width_options(c.options);
  c.submodels.add("full", "the whole model for every client", {make_rule<FullModel>});
  c.windows.add("synchronous", "merge when all outstanding tasks are answered", [](const Config&) {
    return Defaults{{"window.min_updates", "0"}, {"window.release", "merged"}};
  });
  c.merges.add("average", "weighted mean over the holders of each parameter",
               make_rule<AverageMerge>);
  c.objectives.add("cross_entropy", "cross-entropy of the labels",
                   [](const RuleContext&) { return std::make_unique<LocalObjective>(); });
  c.methods.add("fedavg", "full models, synchronous, sample-weighted mean (McMahan et al. 2017)",
                {});
}

}  // namespace espalier::rounds
