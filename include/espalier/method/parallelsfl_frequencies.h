#pragma once
// How many iterations each cluster of ParallelSFL makes in a round, so that all end at about the
// same time, and what its model weighs in the mean.

#include <cstdint>
#include <span>
#include <vector>

namespace espalier::split {

struct ClusterPace {
  double iteration_s = 0;  ///< t_{c,o}
  double fixed_s = 0;      ///< of a round beside its iterations, beta_c
};

/// (17). The pace is that of the cluster at `quantile` of all, in order of iteration_s (0: the
/// fastest), which makes `most` iterations, as do all that would make more.
std::vector<std::int64_t> frequencies(std::span<const ClusterPace> clusters, std::int64_t most,
                                      double quantile);
/// t_c, (15).
double round_s(const ClusterPace& cluster, std::int64_t iterations);
/// Mean waiting of the clusters for the last one, (16).
double waiting(std::span<const ClusterPace> clusters, std::span<const std::int64_t> iterations);
/// rho_c, (18), for clusters with these numbers of bottoms.
std::vector<double> aggregation_weights(std::span<const std::int64_t> bottoms,
                                        std::span<const std::int64_t> iterations);

}  // namespace espalier::split
