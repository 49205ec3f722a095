#pragma once
// Batch sizes of MergeSFL (Liao et al. 2024) as functions of values: regulation, refinement, and
// the filling of the server's budget. A list of batch sizes has one for each worker; 0: the worker
// does not take part. Numbers in brackets are the paper's equations.

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/protocol/split/costs.h"
#include "espalier/protocol/split/labels.h"

namespace espalier::split {

using Batches = std::vector<std::int64_t>;

struct BatchRange {
  std::int64_t least = 1, most = 1;
};

/// At most train.batch, the device's batch, the client's samples, and what fits into its memory; at
/// least two if batches are normalised.
BatchRange batch_range(const Experiment& experiment, const Costs& costs, std::int64_t client);

/// (9): the worker with the least time for a sample gets `largest` samples, the others as many as
/// they do in its time, rounded down; each within its range. `sample_s` is above 0.
Batches regulated_batches(std::span<const double> sample_s, std::int64_t largest,
                          std::span<const BatchRange> ranges);

/// Mean waiting of the workers that take part, (8), as a share of the slowest one's time.
double waiting_share(std::span<const double> sample_s, std::span<const std::int64_t> batches);

/// Shares of labels in the batches together, (11). Some worker takes part.
LabelShares merged_shares(std::span<const LabelShares> workers,
                          std::span<const std::int64_t> batches);

struct RefinementSettings {
  double limit = 0;         ///< of the divergence
  double trust = 0.5;       ///< each batch changes by this share of itself at most
  std::int64_t budget = 0;  ///< most samples of all batches; 0: not limited
};
/// (14): as long as the divergence from `reference` is above the limit, changes one batch by one
/// sample at a time, always the change after which the divergence exceeds the limit least and, of
/// those, the sum of changes in time is smallest. Ends when no change is better.
Batches refined_batches(Batches batches, std::span<const LabelShares> workers,
                        const LabelShares& reference, std::span<const double> sample_s,
                        std::span<const BatchRange> ranges, const RefinementSettings& settings);

/// Multiplies the batches by the largest common factor, at least 1, at which their sum is within
/// `budget` and none is above `largest`, and rounds down; each stays within its range.
Batches filled_batches(Batches batches, std::int64_t budget, std::int64_t largest,
                       std::span<const BatchRange> ranges);

}  // namespace espalier::split
