// FedBuff's step, against the sum of the buffer in the authors' simulator (FLSim).

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "merge_scene.h"

namespace espalier::rounds {
namespace {

/// Ten updates of the whole model; each moved every value by a step of its own.
std::vector<Update> buffer(Scene& s, std::vector<double>& steps) {
  std::vector<std::int64_t> units(60);
  std::iota(units.begin(), units.end(), 0);
  std::vector<Update> updates;
  for (int i = 0; i < 10; ++i) {
    steps.push_back(0.01 * i - 0.03);
    updates.push_back(s.update(units, steps.back(), 1));
  }
  return updates;
}

TEST(BufferedDifferences, OfRateSevenAreTheSumOfTenAtRateSevenTenths) {
  Scene s;
  std::vector<double> steps;
  std::vector<Update> updates = buffer(s, steps);
  s.rule("buffered_differences", "server_lr = 7\nstaleness_power = 0\n")
      ->merge(s.experiment, s.model, updates);
  const double moved = 0.7 * std::accumulate(steps.begin(), steps.end(), 0.0);
  for (std::int64_t i = 0; i < 240; ++i) EXPECT_NEAR(s.value(0, i), s.first(0, i) + moved, 1e-5);
}

TEST(BufferedDifferences, WeighTheAverageAgeByOneWhereTheRateIsScaled) {
  Scene s;
  std::vector<double> steps;
  std::vector<Update> updates = buffer(s, steps);
  double moved = 0;
  for (std::size_t i = 0; i < updates.size(); ++i) {
    updates[i].staleness = static_cast<std::int64_t>(i % 4);
    // s(age) / s(1) with s(age) = (1 + age)^-0.5
    moved += 0.7 * steps[i] * std::sqrt(2.0 / (1 + static_cast<double>(i % 4)));
  }
  s.rule("buffered_differences",
         "server_lr = " + std::to_string(7 * std::sqrt(2.0)) + "\nstaleness_power = 0.5\n")
      ->merge(s.experiment, s.model, updates);
  for (std::int64_t i = 0; i < 240; ++i) EXPECT_NEAR(s.value(0, i), s.first(0, i) + moved, 1e-5);
}

}  // namespace
}  // namespace espalier::rounds
