// The units that Federated Dropout draws: their number, their independence, and the memory bound.

#include <set>

#include "espalier/model/unit_window.h"
#include "fixture.h"

namespace espalier::rounds {
namespace {

const char* const kInput =
    "[data]\nsynthetic_samples = 20\n[model]\nname = mlp\nhidden = 12, 12, 7\n[method]\nname = "
    "federated_dropout\nwidths = 0.4\n";

std::unique_ptr<SubmodelRule> rule_of(const Setting& s) {
  const PeakBytes peak = [&](const Assignment& assigned, std::int64_t) {
    return std::ssize(assigned.submodel.encode()) * 8 +
           payload_bytes(*s.experiment.plans->buffer_layout(assigned.submodel, Packing::dense));
  };
  return rounds_catalogue().submodels.get("random").value.make({s.config, s.experiment, peak});
}

std::vector<int> cut_axes(const Layout& layout) {
  std::vector<int> axes;
  for (int axis = 0; axis < static_cast<int>(layout.axes.size()); ++axis) {
    if (layout.axes[static_cast<std::size_t>(axis)].cuttable) axes.push_back(axis);
  }
  return axes;
}

std::set<std::int64_t> kept(const Submodel& submodel, int axis) {
  const auto units = submodel.units(axis);
  return {units.begin(), units.end()};
}

TEST(RandomUnits, AreDrawnForEachLayerTaskAndClient) {
  const auto s = make_setting(kInput, "");
  const auto rule = rule_of(*s);
  const Layout& layout = *s->experiment.model.layout;
  const std::vector<int> axes = cut_axes(layout);
  ASSERT_EQ(axes.size(), 3u);
  constexpr std::int64_t kTasks = 2000;
  std::vector<double> drawn(12, 0.0), together(12, 0.0);
  std::int64_t changed = 0, by_client = 0;
  for (std::int64_t task = 0; task < kTasks; ++task) {
    const Assignment assigned = rule->choose(s->experiment, {0, task, 9});
    EXPECT_EQ(assigned.submodel, rule->choose(s->experiment, {0, task, 3}).submodel);
    EXPECT_EQ(assigned.submodel.width(axes[0]), 5);  // ceil(0.4 x 12)
    EXPECT_EQ(assigned.submodel.width(axes[2]), 3);  // ceil(0.4 x 7)
    const auto first = kept(assigned.submodel, axes[0]);
    const auto second = kept(assigned.submodel, axes[1]);
    for (const std::int64_t unit : first) {
      ++drawn[static_cast<std::size_t>(unit)];
      if (second.contains(unit)) ++together[static_cast<std::size_t>(unit)];
    }
    changed += first != kept(rule->choose(s->experiment, {0, task + 1, 9}).submodel, axes[0]);
    by_client += first != kept(rule->choose(s->experiment, {1, task, 9}).submodel, axes[0]);
  }
  // Equal draws have the probability 1 / C(12, 5) = 1 / 792.
  EXPECT_GT(changed, kTasks * 0.99);
  EXPECT_GT(by_client, kTasks * 0.99);
  // A unit is kept with the probability p = 5 / 12, and a unit of the next layer independently. The
  // bounds are five standard deviations of a binomial count.
  const auto expect_count = [&](double count, double p) {
    EXPECT_NEAR(count, kTasks * p, 5 * std::sqrt(kTasks * p * (1 - p)));
  };
  constexpr double kKept = 5.0 / 12;
  for (const double count : drawn) expect_count(count, kKept);
  for (const double count : together) expect_count(count, kKept * kKept);
}

TEST(RandomUnits, FitTheMemoryWithAnyDraw) {
  const auto s = make_setting(kInput,
                              "[clients]\nmemory_fit = width\nfleet = 1*small\n"
                              "[device.small]\nmemory_mb = 0.009\n");
  const auto rule = rule_of(*s);
  std::int64_t most = 0;
  for (std::int64_t task = 0; task < 500; ++task) {
    const Assignment assigned = rule->choose(s->experiment, {0, task, 0});
    most = std::max<std::int64_t>(most, std::ssize(assigned.submodel.encode()) * 8 +
                                            payload_bytes(*s->experiment.plans->buffer_layout(
                                                assigned.submodel, Packing::dense)));
  }
  EXPECT_LE(most, 9000);
  EXPECT_GT(most, 7000);  // a further unit of each layer has 1,100 bytes or more
}

}  // namespace
}  // namespace espalier::rounds
