// The memory bound of cost.h for lstm: texts with a label for each token or one for all, at several
// widths, batches and lengths, and cut in depth.

#include "bound.h"
#include "model/leading.h"

namespace espalier {
namespace {

using LstmBound = BoundTest;

Settings lstm(const Settings& more = {}) {
  Settings all{{"name", "lstm"}, {"embed", "8"}, {"hidden", "64"}};
  for (const auto& [key, value] : more) all[key] = value;
  return all;
}

void expect_bounds(const Setting& setting) {
  const Model model = make(setting);
  for (const double fraction : {1.0, 0.5, 0.25}) {
    expect_bound(setting, model, leading(*model.layout, fraction), formatted("{}", fraction));
  }
}

TEST_F(LstmBound, HoldsForBothKindsOfLabels) {
  for (const DataShape& shape : {DataShape{{24}, 50, 50, true}, DataShape{{24}, 4, 200, false}}) {
    for (const Settings& more : {Settings{}, Settings{{"layers", "1"}, {"embed", "48"}},
                                 Settings{{"layers", "3"}, {"hidden", "48,24,64"}}}) {
      for (const std::int64_t batch : {1, 4, 32}) expect_bounds({lstm(more), shape, batch});
    }
  }
}

TEST_F(LstmBound, HoldsForOneStepAndForLongTexts) {
  for (const std::int64_t steps : {1, 2, 300}) {
    for (const std::int64_t batch : {2, 64}) {
      expect_bounds({lstm(), {{steps}, 20, 20, true}, batch});
      expect_bounds({lstm({{"hidden", "20,90"}}), {{steps}, 3, 20, false}, batch});
    }
  }
}

TEST_F(LstmBound, HoldsAtLeafsSize) {
  const Settings leaf{{"name", "lstm"}, {"embed", "8"}, {"hidden", "256"}};
  expect_bounds({leaf, {{80}, 256, 256, true}, 10});
  expect_bounds({leaf, {{80}, 256, 256, false}, 10});
}

TEST_F(LstmBound, HoldsForExits) {
  const Setting setting{lstm({{"layers", "3"}, {"exits", "3"}}), {{20}, 30, 30, true}, 8};
  const Model model = make(setting);
  for (const std::int64_t depth : {1, 2, 3})
    expect_bound(setting, model, cut_depth(model, depth), formatted("depth {}", depth));
  expect_bounds(setting);
}

TEST_F(LstmBound, HoldsWithHeteroFLsScaler) {
  expect_bounds({lstm(), {{24}, 50, 50, true}, 16, true});
  expect_bounds({lstm(), {{24}, 4, 200, false}, 16, true});
}

TEST_F(LstmBound, HoldsWithTwoThreads) {
  at::set_num_threads(2);
  expect_bounds({lstm(), {{24}, 50, 50, true}, 8});
}

}  // namespace
}  // namespace espalier
