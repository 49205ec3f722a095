// The units that a rolling window keeps, against explicit sets.

#include <set>

#include "fixture.h"

namespace espalier::rounds {
namespace {

std::set<std::int64_t> kept(const Setting& s, int axis, std::int64_t version) {
  const PeakBytes free = [](const Assignment&, std::int64_t) { return std::int64_t{0}; };
  const auto rule =
      rounds_catalogue().submodels.get("rolling").value.make({s.config, s.experiment, free});
  const Submodel submodel = rule->choose(s.experiment, {0, 0, version}).submodel;
  const auto units = submodel.units(axis);
  return {units.begin(), units.end()};
}

TEST(RollingUnits, BeginAtTheVersionOrRollBackwards) {
  const std::string text =
      "[data]\nsynthetic_samples = 20\n[model]\nname = mlp\nhidden = 7\n[method]\nname = "
      "fedrolex\nwidths = 0.4\n";
  const auto forward = make_setting(text, "");
  const auto backward = make_setting(text, "[method]\nroll = backward\n");
  const Layout& layout = *forward->experiment.model.layout;
  int axis = 0;
  while (!layout.axes[static_cast<std::size_t>(axis)].cuttable) ++axis;
  const std::int64_t size = layout.axes[static_cast<std::size_t>(axis)].size;
  ASSERT_EQ(size, 7);
  for (std::int64_t version = 0; version < 16; ++version) {
    std::set<std::int64_t> ahead, behind;
    for (std::int64_t k = 0; k < 3; ++k) {  // ceil(0.4 x 7)
      ahead.insert((version + k) % size);
      // As in an array rolled by `version` places, of which the first three are taken.
      behind.insert((k + (16 * size - version)) % size);
    }
    EXPECT_EQ(kept(*forward, axis, version), ahead) << version;
    EXPECT_EQ(kept(*backward, axis, version), behind) << version;
  }
}

}  // namespace
}  // namespace espalier::rounds
