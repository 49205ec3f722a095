// Compares schedules with their formulas, and workloads with counts by hand.

#include "espalier/train/settings.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "espalier/base/error.h"

namespace espalier {
namespace {

TrainSettings read(const std::string& lines, std::int64_t horizon = 100) {
  OptionTable table;
  declare_train_options(table);
  Config config(table);
  config.read_text("[train]\n" + lines, "the test");
  return train_settings(config, horizon);
}

TEST(Schedule, ConstantIsTheRate) {
  const TrainSettings s = read("lr = 0.3\n");
  for (const std::int64_t v : {0, 1, 99, 1000}) EXPECT_EQ(learning_rate(s, v), 0.3);
}

TEST(Schedule, StepDecaysAtItsVersionsAndByDefaultAtHalfTheHorizon) {
  const TrainSettings s = read("lr = 0.5\nschedule = step\nstep_every = 10\ndecay = 0.5\n");
  EXPECT_EQ(learning_rate(s, 9), 0.5);
  EXPECT_EQ(learning_rate(s, 10), 0.25);
  EXPECT_EQ(learning_rate(s, 39), 0.0625);
  const TrainSettings half = read("lr = 0.5\nschedule = step\ndecay = 0.5\n");
  EXPECT_EQ(learning_rate(half, 49), 0.5);
  EXPECT_EQ(learning_rate(half, 50), 0.25);
}

TEST(Schedule, ExponentialPassesThroughTheStepsOfStep) {
  const TrainSettings s = read("lr = 0.5\nschedule = exponential\nstep_every = 10\ndecay = 0.25\n");
  EXPECT_DOUBLE_EQ(learning_rate(s, 0), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(s, 5), 0.25);  // half a step: the root of the factor
  EXPECT_DOUBLE_EQ(learning_rate(s, 10), 0.125);
  EXPECT_DOUBLE_EQ(learning_rate(s, 11) / learning_rate(s, 10), std::pow(0.25, 0.1));
}

TEST(Schedule, CosineFallsFromTheRateToItsFinalShareAndStays) {
  const TrainSettings s = read("lr = 2\nschedule = cosine\nfinal_share = 0.1\n", 80);
  EXPECT_DOUBLE_EQ(learning_rate(s, 0), 2);
  EXPECT_DOUBLE_EQ(learning_rate(s, 40), 1.1);  // the middle: the mean of 2 and 0.2
  EXPECT_DOUBLE_EQ(learning_rate(s, 20), 0.2 + 1.8 * (1 + std::numbers::sqrt2 / 2) / 2);
  EXPECT_DOUBLE_EQ(learning_rate(s, 80), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(s, 500), 0.2);
  EXPECT_NEAR(learning_rate(read("lr = 2\nschedule = cosine\n", 80), 80), 0, 1e-15);
}

TEST(Schedule, WarmUpRisesEvenlyAndTheScheduleCountsFromItsEnd) {
  for (const char* schedule : {"constant", "step", "exponential", "cosine"}) {
    const std::string lines =
        std::string("lr = 1\nstep_every = 10\ndecay = 0.5\nschedule = ") + schedule + "\n";
    const TrainSettings warm = read(lines + "warmup = 4\n", 104);
    const TrainSettings plain = read(lines, 100);
    EXPECT_DOUBLE_EQ(learning_rate(warm, 0), 0.2);
    EXPECT_DOUBLE_EQ(learning_rate(warm, 1), 0.4);
    EXPECT_DOUBLE_EQ(learning_rate(warm, 3), 0.8);
    for (const std::int64_t v : {0, 1, 9, 10, 63, 99, 200}) {
      EXPECT_DOUBLE_EQ(learning_rate(warm, v + 4), learning_rate(plain, v)) << schedule << v;
    }
  }
}

TEST(Settings, BetasBelowZeroAreTheOptimisersDefaults) {
  const TrainSettings adam = read("optimizer = adam\n");
  EXPECT_EQ(adam.beta1, 0.9);
  EXPECT_EQ(adam.beta2, 0.999);
  const TrainSettings adan = read("optimizer = adan\nbeta2 = 0.5\n");
  EXPECT_EQ(adan.beta1, 0.98);
  EXPECT_EQ(adan.beta2, 0.5);
  EXPECT_EQ(adan.beta3, 0.99);
  EXPECT_EQ(read("optimizer = rmsprop\n").alpha, 0.99);
}

TEST(Settings, NesterovWithoutMomentumIsRefused) {
  EXPECT_THROW(read("nesterov = true\n"), InputError);
}

using Passes = std::vector<Workload::Passes>;

TEST(Workload, CountsBatchesAcrossEpochs) {
  TrainSettings s;
  s.epochs = 3;
  Workload w = workload(s, 20, 50);
  EXPECT_EQ(w.steps, 9);
  EXPECT_EQ(w.samples, 150);
  EXPECT_EQ(w.passes, (Passes{{20, 6}, {10, 3}}));
  s.steps = 4;  // an epoch of 20, 20, 10, and one more batch of 20
  w = workload(s, 20, 50);
  EXPECT_EQ(w.steps, 4);
  EXPECT_EQ(w.samples, 70);
  EXPECT_EQ(w.passes, (Passes{{20, 3}, {10, 1}}));
}

TEST(Workload, IsEmptyWithoutSamples) {
  TrainSettings s;
  s.steps = 4;
  const Workload w = workload(s, 20, 0);
  EXPECT_EQ(w.steps, 0);
  EXPECT_TRUE(w.passes.empty());
}

TEST(Workload, CutsBatchesIntoParts) {
  TrainSettings s;
  s.epochs = 2;
  s.accumulate = 3;  // 20 as 7, 7, 6; the epoch's last 10 as 7, 3
  EXPECT_EQ(part_size(s, 20), 7);
  const Workload w = workload(s, 20, 50);
  EXPECT_EQ(w.steps, 6);
  EXPECT_EQ(w.samples, 100);
  EXPECT_EQ(w.passes, (Passes{{7, 10}, {6, 4}, {3, 2}}));
  s.accumulate = 100;  // more parts than samples: one each
  EXPECT_EQ(workload(s, 20, 50).passes, (Passes{{1, 100}}));
}

}  // namespace
}  // namespace espalier
