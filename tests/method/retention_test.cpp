// The learning of sizes alone, on emulated times: docs/methods/adaptcl.md, "How the sizes are
// learned", has its table from here.

#include "espalier/method/retention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "espalier/base/random.h"
#include "purpose.h"

namespace espalier::rounds {
namespace {

using Times = std::vector<std::optional<double>>;

TEST(Interpolation, ThreePointsOfAQuadraticAreExact) {
  const auto quadratic = [](double t) { return 0.75 - 0.5 * t + 0.125 * t * t; };
  std::vector<RetentionPoint> points;
  for (const double t : {9.0, 8.0, 4.0, 2.0}) points.push_back({t, quadratic(t)});
  for (const double t : {0.0, 1.0, 3.5, 11.0}) {
    EXPECT_NEAR(interpolate(points, 3, t).value(), quadratic(t), 1e-12) << t;
  }
  // Two points: the line through the last two.
  const double slope = (quadratic(4) - quadratic(2)) / 2;
  EXPECT_NEAR(interpolate(points, 2, 1).value(), quadratic(2) - slope, 1e-12);
}

TEST(Interpolation, PointsThatCannotBeDividedAreSkipped) {
  using Points = std::vector<RetentionPoint>;
  EXPECT_FALSE(interpolate(Points{}, 2, 1));
  EXPECT_FALSE(interpolate(Points{{3, 1}}, 2, 1));
  EXPECT_FALSE(interpolate(Points{{3, 0.9}, {3 * (1 + 1e-7), 0.5}}, 2, 1));
  EXPECT_FALSE(interpolate(Points{{3, 0.5}, {2, 0.5}}, 2, 1));
  // The point before the unusable one is used instead.
  EXPECT_NEAR(interpolate(Points{{4, 1}, {2.0000001, 0.6}, {2, 0.5}}, 2, 3).value(), 0.75, 1e-12);
}

TEST(Learner, FirstStepIsProportionalAndLimited) {
  RetentionSettings settings;
  settings.aim = 0;
  settings.largest_rate = 0.6;
  settings.floor = 0.3;
  RetentionLearner learner(settings, 5);
  // The target is 2 s: alone, in tolerance, by half, beyond the largest rate, no time.
  const Times times{2.0, 2.15, 4.0, 20.0, std::nullopt};
  const std::vector<double> whole(5, 1.0);
  const std::vector<double> next = learner.learn(times, whole);
  EXPECT_EQ(learner.target(whole), 2);
  EXPECT_EQ(next, (std::vector<double>{1, 1, 0.5, 0.4, 1}));
  // The line of client 2 through (4, 1) and (2.4, 0.5) has 0.375 at 2; client 3 ends at the floor.
  const std::vector<double> then = learner.learn(Times{2.0, 2.1, 2.4, 9.0, 2.0}, next);
  EXPECT_NEAR(then[2], 0.375, 1e-12);
  EXPECT_NEAR(then[3], 0.3, 1e-12);
}

TEST(Learner, SmallChangesAreNotMadeAndUnusableFitsAreProportional) {
  RetentionSettings settings;
  settings.aim = 0;
  settings.tolerance = 0.01;
  settings.least_rate = 0.05;
  RetentionLearner learner(settings, 3);
  std::vector<double> next = learner.learn(Times{1.0, 1.04, 1.25}, std::vector<double>(3, 1.0));
  EXPECT_EQ(next, (std::vector<double>{1, 1, 0.8}));
  // Although smaller, client 2 was slower: the line asks for more than it has.
  next = learner.learn(Times{1.0, 1.04, 1.6}, next);
  EXPECT_NEAR(next[2], 0.8 / 1.6, 1e-12);
}

TEST(Learner, AnAnchoredTargetIgnoresPrunedClients) {
  for (const bool anchored : {true, false}) {
    RetentionSettings settings;
    settings.is_anchored = anchored;
    RetentionLearner learner(settings, 2);
    const std::vector<double> next = learner.learn(Times{1.0, 2.0}, std::vector<double>(2, 1.0));
    learner.learn(Times{1.0, 0.8}, next);
    EXPECT_EQ(learner.target(next), anchored ? 1.0 : 0.8);
    learner.learn(Times{std::nullopt, std::nullopt}, next);
    EXPECT_EQ(learner.target(next), anchored ? 1.0 : 0.8);
  }
}

/// Only some clients answer in an interval: the target stays that of the fastest, which was heard
/// of before, also without an anchor.
TEST(Learner, TheTargetKeepsTheTimesOfClientsThatAreNotHeardOf) {
  for (const bool anchored : {true, false}) {
    RetentionSettings settings;
    settings.is_anchored = anchored;
    settings.aim = 0;
    RetentionLearner learner(settings, 3);
    const std::vector<double> whole(3, 1.0);
    learner.learn(Times{0.5, std::nullopt, std::nullopt}, whole);
    const std::vector<double> next = learner.learn(Times{std::nullopt, 0.8, 0.9}, whole);
    EXPECT_EQ(learner.target(next), 0.5);
    EXPECT_NEAR(next[1], 0.625, 1e-12);
    EXPECT_NEAR(next[2], 0.5 / 0.9, 1e-12);
    // A client may also become slower.
    learner.learn(Times{0.7, std::nullopt, std::nullopt}, next);
    EXPECT_EQ(learner.target(next), 0.7);
  }
}

/// Client 0 has little memory, and its small submodel is the fastest.
TEST(Learner, AnAnchorHasTheWholeModelIfAnyClientHas) {
  RetentionSettings settings;
  settings.aim = 0;
  settings.largest_rate = 0.9;
  RetentionLearner learner(settings, 3);
  const std::vector<double> next =
      learner.learn(Times{0.5, 2.0, 4.0}, std::vector<double>{0.25, 1, 1});
  EXPECT_EQ(next, (std::vector<double>{0.25, 1, 0.5}));
  RetentionLearner all_small(settings, 3);
  EXPECT_EQ(all_small.learn(Times{0.5, 2.0, 1.0}, std::vector<double>{0.25, 0.75, 0.75}),
            (std::vector<double>{0.25, 0.1875, 0.375}));
}

/// A client that was in the tolerance for long and then becomes slower: the line is still through
/// its last two sizes.
TEST(Learner, PointsOfTheSameSizeDoNotPushOutTheOthers) {
  RetentionSettings settings;
  settings.aim = 0;
  RetentionLearner learner(settings, 2);
  std::vector<double> next = learner.learn(Times{1.0, 2.0}, std::vector<double>(2, 1.0));
  EXPECT_EQ(next[1], 0.5);
  for (const double time : {1.01, 1.02, 1.03, 1.04, 1.05}) {
    next = learner.learn(Times{1.0, time}, next);
    EXPECT_EQ(next[1], 0.5);
  }
  next = learner.learn(Times{1.0, 1.25}, next);
  EXPECT_NEAR(next[1], 0.5 - 0.25 * (0.5 / 0.75), 1e-12);  // (2, 1) and (1.25, 0.5), at 1
}

TEST(Learner, ATargetOfZeroIsATarget) {
  RetentionLearner learner({}, 2);
  EXPECT_EQ(learner.learn(Times{0.0, 2.0}, std::vector<double>(2, 1.0))[1], 0.5);
}

TEST(Learner, UnitsComeBackOnlyIfAskedFor) {
  for (const bool regrows : {false, true}) {
    RetentionSettings settings;
    settings.regrows = regrows;
    RetentionLearner learner(settings, 2);
    std::vector<double> next = learner.learn(Times{1.0, 4.0}, std::vector<double>(2, 1.0));
    const double small = next[1];
    EXPECT_LT(small, 1);
    for (int interval = 0; interval < 3; ++interval) {
      EXPECT_EQ(next[1], small);
      next = learner.learn(Times{1.0, 0.5}, next);
    }
    if (regrows) {
      EXPECT_GT(next[1], small);
      EXPECT_LE(next[1], std::min(1.0, 2 * small));
    } else {
      EXPECT_EQ(next[1], small);
    }
  }
}

/// Ten clients whose full model takes 1 to sigma seconds, evenly spaced. The time of a submodel
/// falls a little faster than its retention at first and more slowly later. Five noisy rounds an
/// interval, twelve changes.
struct Toy {
  double sigma = 2;
  double noise = 0;  ///< relative
  std::int64_t seed = 1;
  static constexpr int kClients = 10;

  static double share(double retention) { return 0.8 * retention + 0.2 * retention * retention; }
  double full_time(int client) const { return 1 + (sigma - 1) * client / (kClients - 1.0); }
  /// The mean over the clients of the retention with which each takes one second.
  double ideal() const {
    double sum = 0;
    for (int client = 0; client < kClients; ++client) {
      // 0.2 r^2 + 0.8 r - 1 / T = 0
      sum += (-0.8 + std::sqrt(0.64 + 0.8 / full_time(client))) / 0.4;
    }
    return sum / kClients;
  }
  std::vector<double> run(const RetentionSettings& settings) const {
    RetentionLearner learner(settings, kClients);
    std::vector<double> retentions(kClients, 1.0);
    Stream random(seed, kTest);
    for (int change = 0; change < 12; ++change) {
      Times times;
      for (int client = 0; client < kClients; ++client) {
        double sum = 0;
        for (int round = 0; round < 5; ++round) {
          sum += full_time(client) * share(retentions[static_cast<std::size_t>(client)]) *
                 (1 + noise * random.normal());
        }
        times.emplace_back(sum / 5);
      }
      retentions = learner.learn(times, retentions);
    }
    return retentions;
  }
};

RetentionSettings toy_settings(bool anchored, double aim) {
  RetentionSettings settings;
  settings.is_anchored = anchored;
  settings.aim = aim;
  settings.floor = 0.05;
  return settings;
}

TEST(Learner, WithoutNoiseEveryTimeEndsWithinTheTolerance) {
  for (const double sigma : {1.05, 2.0, 5.0, 10.0, 20.0}) {
    const Toy toy{.sigma = sigma};
    const RetentionSettings settings = toy_settings(true, 0.5);
    const std::vector<double> retentions = toy.run(settings);
    EXPECT_EQ(retentions.front(), 1);  // the fastest client keeps everything
    for (int client = 0; client < Toy::kClients; ++client) {
      const double retention = retentions[static_cast<std::size_t>(client)];
      const double time = toy.full_time(client) * Toy::share(retention);
      EXPECT_TRUE(time <= 1 + settings.tolerance + 1e-9 || retention <= settings.floor + 1e-9)
          << sigma << " " << client << " " << time;
    }
  }
}

double median_of_runs(Toy toy, const RetentionSettings& settings) {
  std::vector<double> means;
  for (toy.seed = 1; toy.seed <= 60; ++toy.seed) {
    const std::vector<double> retentions = toy.run(settings);
    means.push_back(std::accumulate(retentions.begin(), retentions.end(), 0.0) / Toy::kClients);
  }
  std::ranges::sort(means);
  return (means[29] + means[30]) / 2;
}

TEST(Learner, WithNoiseTheAnchoredTargetStaysNearTheIdealAndTheFastestCollapses) {
  for (const double sigma : {2.0, 5.0, 10.0}) {
    const Toy toy{.sigma = sigma, .noise = 0.05};
    const double anchored = median_of_runs(toy, toy_settings(true, 0.5));
    const double edge = median_of_runs(toy, toy_settings(true, 0));
    const double fastest = median_of_runs(toy, toy_settings(false, 0));
    const double half = median_of_runs(toy, toy_settings(false, 0.5));
    std::printf(
        "sigma %4.0f  ideal %.3f  anchored %.3f (aim 0: %.3f)  fastest %.3f (aim 0.5: %.3f)\n",
        sigma, toy.ideal(), anchored, edge, fastest, half);
    EXPECT_NEAR(anchored, toy.ideal(), 0.03);
    EXPECT_LT(fastest, toy.ideal() - 0.1);
    EXPECT_LT(half, anchored);
  }
}

}  // namespace
}  // namespace espalier::rounds
