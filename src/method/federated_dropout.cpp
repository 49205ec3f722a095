#include "espalier/method/federated_dropout.h"

#include "espalier/base/random.h"
#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"

namespace espalier::rounds {
namespace {

const Purpose kUnits = register_purpose("method.dropped_units");

/// The seed and the width, from which the client draws the same units.
constexpr std::int64_t kNameBytes = 16;

/// The submodel with units(axis, count, size) of every axis that can be cut, where `count` is
/// kept_units(width, size).
template <class Units>
Submodel with_units(const Layout& layout, double width, const Units& units) {
  Submodel submodel = Submodel::full(layout);
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (!layout.axes[axis].cuttable) continue;
    const std::int64_t size = layout.axes[axis].size;
    submodel.keep(static_cast<int>(axis), units(axis, kept_units(width, size), size));
  }
  return submodel;
}

/// Units at equal distances: a subset of this size is described by at most one run more, so that
/// widths fitted to the memory fit with any draw.
Assignment spread_units(const Layout& layout, double width) {
  return {with_units(layout, width,
                     [](std::size_t, std::int64_t count, std::int64_t size) {
                       std::vector<std::int64_t> units;
                       for (std::int64_t i = 0; i < count; ++i) units.push_back(i * size / count);
                       return units;
                     }),
          width};
}

class RandomUnits : public SubmodelRule {
 public:
  explicit RandomUnits(const RuleContext& context)
      : levels_(context, [&](double width) {
          return spread_units(*context.experiment.model.layout, width);
        }) {}
  Assignment choose(const Experiment& e, const SendMoment& moment) override {
    const double width = levels_.width(moment);
    Assignment assignment{with_units(*e.model.layout, width,
                                     [&](std::size_t axis, std::int64_t count, std::int64_t size) {
                                       Stream stream(e.seed, kUnits, moment.client, moment.nth_task,
                                                     static_cast<std::int64_t>(axis));
                                       return stream.choose(count, size);
                                     }),
                          width};
    if (!assignment.submodel.is_full()) assignment.name_bytes = kNameBytes;
    return assignment;
  }

 private:
  WidthLevels levels_;
};

}  // namespace

void register_federated_dropout(Catalogue& c) {
  declare_width_options(c.options);
  c.submodels.add("random", "random units of every layer, drawn for each task",
                  {make_rule<RandomUnits>});
  Method method;
  method.submodel = "random";
  method.objective = "masked_cross_entropy";
  method.defaults = {{"method.widths", "0.75"}, {"method.masked_loss", "false"}};
  c.methods.add("federated_dropout",
                "random units of each layer in every task (Caldas et al. 2018)", method);
}

}  // namespace espalier::rounds
