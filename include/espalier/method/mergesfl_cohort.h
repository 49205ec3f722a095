#pragma once
// Which workers train in a round of MergeSFL: at random, or by a genetic algorithm for the merged
// labels that are nearest to the reference, (11) to (13). Every draw comes from the given stream.

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/method/mergesfl_batches.h"

namespace espalier::split {

/// Workers of a round, ascending.
using Cohort = std::vector<std::int64_t>;

/// What is asked of a cohort. All lists have one entry for each worker.
struct CohortBounds {
  std::int64_t fewest = 1, most = 1;  ///< workers
  std::int64_t budget = 0;            ///< most samples of their batches; 0: not limited
  std::span<const std::int64_t> batches{};
  std::span<const double> priority{};  ///< above 0
};

/// (13): high for workers that have rarely taken part.
std::vector<double> priorities(std::span<const std::int64_t> times_selected);

/// The least budget that is not below `wanted` and that a cohort of `fewest` workers can keep.
std::int64_t possible_budget(std::int64_t wanted, std::int64_t fewest,
                             std::span<const std::int64_t> batches);

/// The batches of the cohort; 0 for others.
Batches cohort_batches(const Cohort& cohort, std::span<const std::int64_t> batches);

/// As many workers as the bounds allow, drawn with equal probability.
Cohort random_cohort(const CohortBounds& bounds, Stream random);

struct GeneticSettings {
  std::int64_t population = 40, generations = 60;
};

struct Evolution {
  Cohort cohort;
  std::vector<double> divergences;  ///< the smallest, of the first population and each generation
};

/// A genetic algorithm with one bit for each worker: the first population is drawn by priority;
/// tournaments of three, uniform crossover, each bit flips with probability 1/workers, and the best
/// cohort survives. A cohort out of bounds is repaired. Better is a smaller divergence of the
/// merged labels from `reference`, then a smaller unused budget, then lower numbers.
Evolution genetic_cohort(const CohortBounds& bounds, std::span<const LabelShares> workers,
                         const LabelShares& reference, const GeneticSettings& settings,
                         Stream random);

}  // namespace espalier::split
