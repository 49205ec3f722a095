// Workers that MergeSFL chooses, and its whole control as a simulation without training.

#include "espalier/method/mergesfl_cohort.h"

#include <gtest/gtest.h>

#include "mergesfl_scene.h"

namespace espalier::split {
namespace {

/// The bounds of a fleet by the defaults of the method, and what they refer to.
struct Case {
  TestFleet fleet;
  std::vector<BatchRange> ranges;
  Batches batches;
  std::vector<double> priority;
  CohortBounds bounds;

  Case(std::int64_t seed, std::int64_t workers, double alpha = 0.1)
      : fleet(test_fleet(seed, workers, alpha)),
        ranges(static_cast<std::size_t>(workers), {1, 64}),
        batches(regulated_batches(fleet.sample_s, 64, ranges)),
        priority(static_cast<std::size_t>(workers), static_cast<double>(workers)) {
    bounds = {.fewest = std::max<std::int64_t>(2, (workers + 7) / 8),
              .most = (workers + 1) / 2,
              .batches = batches,
              .priority = priority};
    bounds.budget = possible_budget(sum_of(batches) * 3 / 10, bounds.fewest, batches);
  }
  Evolution evolve(std::int64_t round, const GeneticSettings& settings = {}) const {
    return genetic_cohort(bounds, fleet.labels, fleet.reference, settings,
                          Stream(1, kTest, 7, round));
  }
  double divergence_of(const Cohort& cohort) const {
    return divergence(merged_shares(fleet.labels, cohort_batches(cohort, batches)),
                      fleet.reference);
  }
};

TEST(Cohort, KeepsItsBounds) {
  for (const std::int64_t workers : {3, 8, 16, 41}) {
    for (std::int64_t seed = 1; seed <= 6; ++seed) {
      const Case c(seed, workers);
      const Stream random(seed, kTest, 9);
      for (const Cohort& cohort : {c.evolve(seed).cohort, random_cohort(c.bounds, random)}) {
        EXPECT_GE(std::ssize(cohort), c.bounds.fewest);
        EXPECT_LE(std::ssize(cohort), c.bounds.most);
        EXPECT_LE(sum_of(cohort_batches(cohort, c.batches)), c.bounds.budget);
        EXPECT_TRUE(std::ranges::is_sorted(cohort));
        EXPECT_EQ(std::ranges::adjacent_find(cohort), cohort.end());
      }
    }
  }
}

TEST(Cohort, IsTheSameForTheSameRound) {
  const Case c(4, 24);
  const Evolution once = c.evolve(3), again = c.evolve(3);
  EXPECT_EQ(once.cohort, again.cohort);
  EXPECT_EQ(once.divergences, again.divergences);
  EXPECT_NE(once.divergences, c.evolve(4).divergences);
}

TEST(Cohort, NeverGetsWorseFromGenerationToGeneration) {
  const Evolution evolution = Case(2, 20).evolve(1, {.population = 20, .generations = 30});
  ASSERT_EQ(evolution.divergences.size(), 31U);
  EXPECT_TRUE(std::ranges::is_sorted(evolution.divergences, std::greater()));
  EXPECT_LT(evolution.divergences.back(), evolution.divergences.front());
}

TEST(Cohort, IsBetterThanFiftyDrawnOnes) {
  for (const std::int64_t workers : {8, 16, 80}) {
    for (std::int64_t seed = 1; seed <= 4; ++seed) {
      const Case c(seed, workers);
      const Cohort found = c.evolve(seed).cohort;
      CohortBounds same = c.bounds;
      same.fewest = same.most = std::ssize(found);
      for (std::int64_t draw = 0; draw < 50; ++draw) {
        const Cohort drawn = random_cohort(same, Stream(seed, kTest, 11, draw));
        ASSERT_EQ(drawn.size(), found.size());
        EXPECT_LE(c.divergence_of(found), c.divergence_of(drawn));
      }
    }
  }
}

TEST(Cohort, FindsTheOnlyBalancedOne) {
  // Three classes; only workers 1, 4 and 6 together have them in equal parts.
  std::vector<LabelShares> labels(7, {1, 0, 0});
  labels[4] = {0, 1, 0};
  labels[6] = {0, 0, 1};
  labels[0] = labels[2] = labels[3] = labels[5] = {0.9, 0.1, 0};
  const Batches batches(7, 5);
  const std::vector<double> priority(7, 1.0);
  const CohortBounds bounds{.fewest = 3, .most = 3, .batches = batches, .priority = priority};
  const LabelShares equal = {1.0 / 3, 1.0 / 3, 1.0 / 3};
  const Evolution found = genetic_cohort(bounds, labels, equal, {}, Stream(1, kTest));
  EXPECT_EQ(found.cohort, (Cohort{1, 4, 6}));
  EXPECT_NEAR(found.divergences.back(), 0, 1e-12);
}

TEST(Cohort, PrefersWorkersThatRarelyTookPart) {
  const std::vector<std::int64_t> times = {0, 3, 1};
  const std::vector<double> expected = {7, 1.75, 3.5};
  EXPECT_EQ(priorities(times), expected);
  // Equal labels: what is left is the first population, drawn by priority.
  const Batches batches(10, 4);
  const std::vector<LabelShares> labels(10, {0.5, 0.5});
  std::vector<std::int64_t> selected(10, 0);
  for (std::int64_t i = 5; i < 10; ++i) selected[static_cast<std::size_t>(i)] = 50;
  const std::vector<double> priority = priorities(selected);
  const CohortBounds bounds{.fewest = 3, .most = 3, .batches = batches, .priority = priority};
  std::int64_t rare = 0;
  for (std::int64_t round = 0; round < 40; ++round) {
    const Evolution found =
        genetic_cohort(bounds, labels, {0.5, 0.5}, {.population = 1}, Stream(1, kTest, 5, round));
    for (const std::int64_t worker : found.cohort) rare += worker < 5 ? 1 : 0;
  }
  EXPECT_GT(rare, 100);  // of 120; without priorities 60
}

TEST(Cohort, GetsABudgetThatSomeCohortCanKeep) {
  const Batches batches = {9, 2, 5, 7};
  EXPECT_EQ(possible_budget(3, 2, batches), 7);
  EXPECT_EQ(possible_budget(12, 2, batches), 12);
}

/// Means over seeds of what the simulation of the specification measured.
struct Means {
  double drawn = 0, found = 0, waiting = 0, equal_waiting = 0;
};

/// Of cohorts of `size`, whose batches are regulated and fill the budget.
Means simulated(std::int64_t workers, std::int64_t size) {
  constexpr double kSeeds = 8;
  Means m;
  for (std::int64_t seed = 1; seed <= 8; ++seed) {
    Case c(seed, workers);
    c.bounds.fewest = c.bounds.most = size;
    c.bounds.budget = 0;
    const Cohort found = c.evolve(seed).cohort;
    m.found += c.divergence_of(found) / kSeeds;
    m.drawn += c.divergence_of(random_cohort(c.bounds, Stream(seed, kTest, 2))) / kSeeds;
    const Batches own = cohort_batches(found, c.batches);
    const Batches filled = filled_batches(own, sum_of(own) * 2, 64, c.ranges);
    m.waiting += waiting_share(c.fleet.sample_s, filled) / kSeeds;
    const Batches equal = cohort_batches(found, Batches(static_cast<std::size_t>(workers), 32));
    m.equal_waiting += waiting_share(c.fleet.sample_s, equal) / kSeeds;
  }
  return m;
}

TEST(Control, BehavesAsInTheSimulationOfTheSpecification) {
  // There, 20 of 80 workers: divergence 0.087 drawn, 0.001 found; waiting 0.68 with batches of 32,
  // 0.03 regulated. 9 of 16 workers: 0.117, 0.028, 0.55, 0.02. Labels and speeds were drawn by the
  // same distributions but for the links, so values agree only roughly.
  const Means many = simulated(80, 20), few = simulated(16, 9);
  EXPECT_GT(many.drawn, 0.05);
  EXPECT_LT(many.drawn, 0.3);
  EXPECT_LT(many.found, 0.01);
  EXPECT_GT(few.drawn, 0.08);
  EXPECT_LT(few.drawn, 0.5);
  EXPECT_LT(few.found, few.drawn / 2);
  for (const Means& m : {many, few}) {
    EXPECT_LT(m.waiting, 0.1);
    EXPECT_GT(m.equal_waiting, 0.4);
  }
}

}  // namespace
}  // namespace espalier::split
