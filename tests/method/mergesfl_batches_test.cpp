// Batch sizes of MergeSFL: what the paper and its specification promise of them.

#include "espalier/method/mergesfl_batches.h"

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/base/archive.h"
#include "espalier/method/mergesfl_estimates.h"
#include "mergesfl_scene.h"

namespace espalier::split {
namespace {

std::vector<BatchRange> ranges(std::size_t count, std::int64_t least, std::int64_t most) {
  return std::vector<BatchRange>(count, {least, most});
}

double divergence_of(const TestFleet& fleet, const Batches& batches) {
  return divergence(merged_shares(fleet.labels, batches), fleet.reference);
}

TEST(Regulation, GivesEveryWorkerTheTimeOfTheFastest) {
  const double sample_s[] = {0.004, 0.002, 0.03, 0.5};
  const Batches batches = regulated_batches(sample_s, 50, ranges(4, 1, 50));
  EXPECT_EQ(batches, (Batches{25, 50, 3, 1}));
}

TEST(Regulation, KeepsTimesWithinOneSample) {
  for (std::int64_t seed = 1; seed <= 20; ++seed) {
    const TestFleet fleet = test_fleet(seed, 30, 0.5);
    const double least = *std::ranges::min_element(fleet.sample_s);
    for (const std::int64_t largest : {64, 17}) {
      const Batches batches = regulated_batches(fleet.sample_s, largest, ranges(30, 1, largest));
      const double time = static_cast<double>(largest) * least;
      EXPECT_EQ(*std::ranges::max_element(batches), largest);
      for (std::size_t i = 0; i < batches.size(); ++i) {
        const double own = static_cast<double>(batches[i]) * fleet.sample_s[i];
        EXPECT_GT(own, (time - fleet.sample_s[i]) * (1 - 1e-12));
        if (batches[i] > 1) {
          EXPECT_LE(own, time * (1 + 1e-12));
        }
      }
    }
  }
}

TEST(Regulation, KeepsEveryBatchInItsRange) {
  const double sample_s[] = {0.001, 0.001, 0.002, 0.08};
  const std::vector<BatchRange> own = {{1, 40}, {2, 7}, {2, 40}, {3, 3}};
  EXPECT_EQ(regulated_batches(sample_s, 40, own), (Batches{40, 7, 20, 3}));
}

TEST(Regulation, EndsTheWaitingForAThirtyfoldSlowerWorker) {
  std::vector<double> sample_s;
  for (int i = 0; i < 16; ++i) sample_s.push_back(1e-3 * std::pow(30, i / 15.0));
  EXPECT_LT(waiting_share(sample_s, regulated_batches(sample_s, 64, ranges(16, 1, 64))), 0.1);
  EXPECT_GT(waiting_share(sample_s, Batches(16, 64)), 0.6);
  // 1 - mean / slowest of 4 x 2, 1 x 6, 2 x 1
  EXPECT_DOUBLE_EQ(waiting_share(std::vector<double>{2, 6, 5, 1}, Batches{4, 1, 0, 2}),
                   1 - 16.0 / 24.0);
}

TEST(Divergence, DoesNotChangeWhenAllBatchesAreDoubled) {
  const TestFleet fleet = test_fleet(3, 9, 0.3);
  Batches batches = {4, 0, 7, 1, 0, 12, 3, 3, 9};
  const double once = divergence_of(fleet, batches);
  EXPECT_GT(once, 0.01);
  for (std::int64_t& batch : batches) batch *= 2;
  EXPECT_NEAR(divergence_of(fleet, batches), once, 1e-15);
}

TEST(Divergence, IsThatOfTheSamplesTogether) {
  const std::vector<LabelShares> labels = {{0.5, 0.5}, {1, 0}, {0, 1}};
  const LabelShares merged = merged_shares(labels, Batches{4, 6, 0});
  EXPECT_NEAR(merged[0], 0.8, 1e-15);  // 2 + 6 of 10 samples
  const double expected = 0.8 * std::log(0.8 / 0.5) + 0.2 * std::log(0.2 / 0.5);
  EXPECT_NEAR(divergence(merged, mean_shares(labels)), expected, 1e-15);
}

TEST(Refinement, LeavesIndependentAndIdenticalLabelsAlone) {
  TestFleet fleet = test_fleet(5, 12, 0.3);
  fleet.labels.assign(12, fleet.reference);
  const Batches batches = regulated_batches(fleet.sample_s, 64, ranges(12, 1, 64));
  EXPECT_LT(divergence_of(fleet, batches), 1e-12);
  EXPECT_EQ(refined_batches(batches, fleet.labels, fleet.reference, fleet.sample_s,
                            ranges(12, 1, 64), {.limit = 1e-9}),
            batches);
}

TEST(Refinement, LowersTheDivergenceWithinItsBounds) {
  std::int64_t reached = 0;
  for (std::int64_t seed = 1; seed <= 8; ++seed) {
    const TestFleet fleet = test_fleet(seed, 8, 0.5);
    const Batches first = regulated_batches(fleet.sample_s, 64, ranges(8, 1, 64));
    const double before = divergence_of(fleet, first);
    const RefinementSettings settings{
        .limit = before * 0.8, .trust = 0.5, .budget = sum_of(first) + 2};
    const Batches refined = refined_batches(first, fleet.labels, fleet.reference, fleet.sample_s,
                                            ranges(8, 1, 64), settings);
    EXPECT_LT(divergence_of(fleet, refined), before);
    EXPECT_LE(sum_of(refined), settings.budget);
    reached += divergence_of(fleet, refined) <= settings.limit ? 1 : 0;
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_LE(2 * std::abs(refined[i] - first[i]), first[i]);
      EXPECT_GE(refined[i], 1);
      EXPECT_LE(refined[i], 64);
    }
  }
  EXPECT_GT(reached, 4);
}

TEST(Refinement, ChangesNoMoreThanItMust) {
  // One of two workers has the wrong labels: with 10 of 30 samples the divergence is 0.0589, with 9
  // of 29 it is 0.0751, with 11 of 31 0.0437.
  const std::vector<LabelShares> labels = {{1, 0}, {0, 1}};
  const double sample_s[] = {1, 1};
  const Batches refined =
      refined_batches({20, 10}, labels, {0.5, 0.5}, sample_s, ranges(2, 1, 20), {.limit = 0.045});
  EXPECT_EQ(refined, (Batches{20, 11}));
}

TEST(Refinement, LeavesOutTheWorkersThatDoNotTakePart) {
  const TestFleet fleet = test_fleet(2, 6, 0.3);
  const Batches refined = refined_batches({9, 0, 8, 0, 0, 30}, fleet.labels, fleet.reference,
                                          fleet.sample_s, ranges(6, 1, 64), {.limit = 0});
  for (const std::size_t i : {1, 3, 4}) EXPECT_EQ(refined[i], 0);
  EXPECT_NE(refined, (Batches{9, 0, 8, 0, 0, 30}));
}

TEST(Budget, IsFilledAndNeverExceeded) {
  EXPECT_EQ(filled_batches({10, 0, 4, 7}, 50, 64, ranges(4, 1, 64)), (Batches{23, 0, 9, 16}));
  EXPECT_EQ(filled_batches({10, 0, 4, 7}, 500, 25, ranges(4, 1, 64)), (Batches{25, 0, 10, 17}));
  std::vector<BatchRange> few = ranges(4, 1, 64);
  few[2].most = 5;
  EXPECT_EQ(filled_batches({10, 0, 4, 7}, 50, 64, few), (Batches{23, 0, 5, 16}));
  EXPECT_EQ(filled_batches({10, 0, 4, 7}, 21, 64, ranges(4, 1, 64)), (Batches{10, 0, 4, 7}));
}

TEST(SpeedEstimates, KeepAShareOfTheOldValue) {
  SpeedEstimates estimates({{0.2, 0.1}, {1, 3}}, 0.8);
  estimates.observe(1, {2, 8});
  estimates.observe(1, {2, 8});
  const std::vector<double> sample_s = estimates.sample_s();
  EXPECT_DOUBLE_EQ(sample_s[0], 0.2 + 0.1);
  EXPECT_NEAR(sample_s[1], (2 - 0.64 * 1) + (8 - 0.64 * 5), 1e-12);
  ByteArchive out;
  estimates.archive(out);
  const Bytes bytes = out.take();
  SpeedEstimates again({{0, 0}, {0, 0}}, 0.8);
  ByteArchive in(bytes);
  again.archive(in);
  EXPECT_EQ(again.sample_s(), sample_s);
}

}  // namespace
}  // namespace espalier::split
