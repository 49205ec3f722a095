// Both ways in which AdaptCL merges submodels, by their formulas.

#include <gtest/gtest.h>

#include <algorithm>

#include "merge_scene.h"

namespace espalier::rounds {
namespace {

/// Entry 0 has the rows of 60 hidden units with 4 values each. Two clients: units 0, 1, 2 moved by
/// 0.5, and units 1, 2, 3 moved by -0.25; the second has three times as many samples.
std::vector<Update> two_updates(Scene& s) {
  std::vector<Update> updates{s.update({0, 1, 2}, 0.5, 1), s.update({1, 2, 3}, -0.25, 1)};
  updates[1].samples = 3 * updates[0].samples;
  return updates;
}

TEST(ByWorker, MissingValuesCountAsZeroIfAnyUpdateHasThem) {
  Scene s;
  std::vector<Update> updates = two_updates(s);
  s.rule("by_worker", "")->merge(s.experiment, s.model, updates);
  for (std::int64_t i = 0; i < 240; ++i) {
    const std::int64_t unit = i / 4;
    const double first = s.first(0, i);
    const double one = unit <= 2 ? 0.25 * (first + 0.5) : 0;
    const double other = unit >= 1 && unit <= 3 ? 0.75 * (first - 0.25) : 0;
    if (unit <= 3) {
      EXPECT_NEAR(s.value(0, i), one + other, 1e-6) << i;
    } else {
      EXPECT_EQ(s.value(0, i), first) << i;
    }
  }
}

TEST(ByUnit, OneHolderGivesItsValuesAndNoHolderKeepsTheModel) {
  Scene s;
  std::vector<Update> updates = two_updates(s);
  s.rule("average", "")->merge(s.experiment, s.model, updates);
  for (std::int64_t i = 0; i < 240; ++i) {
    const std::int64_t unit = i / 4;
    const auto first = static_cast<float>(s.first(0, i));
    if (unit == 0) {
      EXPECT_EQ(static_cast<float>(s.value(0, i)), static_cast<float>(first + 0.5)) << i;
    } else if (unit == 3) {
      EXPECT_EQ(static_cast<float>(s.value(0, i)), static_cast<float>(first - 0.25)) << i;
    } else if (unit > 3) {
      EXPECT_EQ(static_cast<float>(s.value(0, i)), first) << i;
    } else {
      EXPECT_NEAR(s.value(0, i), first + 0.25 * 0.5 - 0.75 * 0.25, 1e-6) << i;
    }
  }
}

}  // namespace
}  // namespace espalier::rounds
