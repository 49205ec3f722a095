// The memory bound of cost.h for ensembles, with all of their members and with some.

#include <algorithm>

#include "bound.h"

namespace espalier {
namespace {

class EnsembleCost : public BoundTest {};

TEST_F(EnsembleCost, BoundsAllAndSomeMembers) {
  const std::vector<Setting> settings{
      {{{"name", "mlp"}, {"hidden", "400,200"}, {"members", "4"}}, {{1, 28, 28}, 10}, 16},
      {{{"name", "cnn"}, {"channels", "32,64"}, {"features", "256"}, {"members", "4"}},
       {{3, 32, 32}, 10},
       8},
      {{{"name", "resnet"}, {"width", "32"}, {"members", "4"}}, {{3, 32, 32}, 10}, 8}};
  for (const Setting& setting : settings) {
    const Model model = make(setting);
    std::vector<std::int64_t> flops;
    for (const std::vector<int>& kept : std::vector<std::vector<int>>{{0, 1, 2, 3}, {1, 3}, {2}}) {
      Submodel submodel = Submodel::full(*model.layout);
      for (int k = 0; k < 4; ++k) {
        submodel.keep_block(k, std::ranges::find(kept, k) != kept.end());
      }
      expect_bound(setting, model, submodel, std::to_string(kept.size()) + " members");
      flops.push_back(training_cost(model, submodel, setting.batch, 1).step_flops);
    }
    EXPECT_EQ(flops[0], 4 * flops[2]);
    EXPECT_EQ(flops[1], 2 * flops[2]);
  }
}

}  // namespace
}  // namespace espalier
