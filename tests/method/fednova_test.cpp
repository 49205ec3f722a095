// FedNova's merge against its formula in double precision, and the sums of gradient weights against
// the recursions of SGD.

#include "espalier/method/fednova.h"

#include <gtest/gtest.h>

#include <cmath>

#include "merge_scene.h"

namespace espalier::rounds {
namespace {

/// The sum by PyTorch's recursion, with every gradient 1: the whole way over the learning rate.
double way(std::int64_t steps, double momentum, bool nesterov) {
  double velocity = 0, sum = 0;
  for (std::int64_t k = 0; k < steps; ++k) {
    velocity = momentum * velocity + 1;
    sum += nesterov ? 1 + momentum * velocity : velocity;
  }
  return sum;
}

TEST(GradientWeights, AreTheWayOfSgdWithGradientsOfOne) {
  for (const double momentum : {0.0, 0.5, 0.9, 1.0}) {
    for (const std::int64_t steps : {0, 1, 2, 7, 100}) {
      for (const bool nesterov : {false, true}) {
        const double expected = way(steps, momentum, nesterov);
        EXPECT_NEAR(gradient_weights(steps, momentum, nesterov), expected, 1e-10 * expected)
            << momentum << " " << steps << nesterov;
      }
    }
  }
}

Update trained(Scene& s, std::vector<std::int64_t> units, double step, std::int64_t steps,
               std::int64_t samples) {
  Update update = s.update(std::move(units), step, 1);
  update.steps = steps;
  update.samples = samples;
  return update;
}

TEST(NormalizedAverage, DividesDifferencesByTheirSteps) {
  for (const double momentum : {0.0, 0.9}) {
    Scene s;
    s.experiment.train.momentum = momentum;
    const auto rule = s.rule("normalized_average", "");
    std::vector<Update> updates{trained(s, {0, 1}, 0.4, 2, 10), trained(s, {0}, 0.9, 8, 30),
                                trained(s, {0, 1}, 0.0, 0, 50)};
    rule->merge(s.experiment, s.model, updates);
    const double a = way(2, momentum, false), b = way(8, momentum, false);
    const double both = (0.25 * a + 0.75 * b) * (0.25 * 0.4 / a + 0.75 * 0.9 / b);
    for (std::int64_t i = 0; i < 4; ++i) {
      // The trained values and the result are floats below 8.
      EXPECT_NEAR(s.value(0, i) - s.first(0, i), both, 0x1p-20);
      EXPECT_NEAR(s.value(0, 4 + i) - s.first(0, 4 + i), 0.4, 0x1p-20);
      EXPECT_EQ(s.value(0, 8 + i), s.first(0, 8 + i));
    }
    EXPECT_GT(std::abs(both - (0.25 * 0.4 + 0.75 * 0.9)), 0.01);
    EXPECT_EQ(updates[1].weight, 30);
  }
}

TEST(NormalizedAverage, OfEqualStepsIsTheMean) {
  Scene plain, normalized;
  for (const auto& [scene, name] :
       {std::pair{&plain, "average"}, std::pair{&normalized, "normalized_average"}}) {
    std::vector<Update> updates{trained(*scene, {0, 1}, 0.4, 5, 10),
                                trained(*scene, {0, 2}, 0.9, 5, 31)};
    scene->rule(name, "")->merge(scene->experiment, scene->model, updates);
  }
  // Both compute the mean in double. The sums may differ by some 2^-52 of the values, which can
  // move the one rounding to float to the neighbouring value, not further.
  for (std::int64_t i = 0; i < 12; ++i) {
    const auto a = static_cast<float>(plain.value(0, i));
    const auto b = static_cast<float>(normalized.value(0, i));
    EXPECT_LE(std::abs(a - b), std::abs(std::nextafter(a, 1e9F) - a));
    EXPECT_NE(plain.value(0, i), plain.first(0, i));
  }
}

TEST(NormalizedAverage, RefusesOptimisersWithoutASum) {
  Scene s;
  s.experiment.train.optimizer = OptimizerKind::adam;
  EXPECT_THROW(s.rule("normalized_average", ""), InputError);
  s.experiment.train.optimizer = OptimizerKind::sgd;
  s.experiment.train.momentum = 0.9;
  s.experiment.train.optimizer_state = OptimizerState::keep;
  EXPECT_THROW(s.rule("normalized_average", ""), InputError);
}

}  // namespace
}  // namespace espalier::rounds
