#include "espalier/method/parallelsfl_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace espalier::split {
namespace {

/// Equal clusters must get equal frequencies, although a quotient may be an ulp below a whole
/// number.
std::int64_t whole_part(double value) {
  return static_cast<std::int64_t>(std::floor(value * (1 + 1e-12) + 1e-9));
}

const ClusterPace& pace_setter(std::span<const ClusterPace> clusters, double quantile) {
  std::vector<std::size_t> order(clusters.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, {}, [&](std::size_t c) { return clusters[c].iteration_s; });
  return clusters[order[static_cast<std::size_t>(quantile *
                                                 static_cast<double>(clusters.size() - 1))]];
}

}  // namespace

std::vector<std::int64_t> frequencies(std::span<const ClusterPace> clusters, std::int64_t most,
                                      double quantile) {
  const ClusterPace& setter = pace_setter(clusters, quantile);
  const double end_s = round_s(setter, most);
  std::vector<std::int64_t> result;
  for (const ClusterPace& cluster : clusters) {
    // An iteration without duration could be made any number of times.
    const double iterations = cluster.iteration_s > 0
                                  ? (end_s - cluster.fixed_s) / cluster.iteration_s
                                  : static_cast<double>(most);
    result.push_back(whole_part(std::clamp(iterations, 1.0, static_cast<double>(most))));
  }
  result[static_cast<std::size_t>(&setter - clusters.data())] = most;
  return result;
}

double round_s(const ClusterPace& cluster, std::int64_t iterations) {
  return static_cast<double>(iterations) * cluster.iteration_s + cluster.fixed_s;
}

double waiting(std::span<const ClusterPace> clusters, std::span<const std::int64_t> iterations) {
  double last = 0, sum = 0;
  for (std::size_t c = 0; c < clusters.size(); ++c) {
    const double ends = round_s(clusters[c], iterations[c]);
    last = std::max(last, ends);
    sum += ends;
  }
  return last - sum / static_cast<double>(clusters.size());
}

std::vector<double> aggregation_weights(std::span<const std::int64_t> bottoms,
                                        std::span<const std::int64_t> iterations) {
  std::vector<double> weights;
  double all = 0;
  for (std::size_t c = 0; c < bottoms.size(); ++c) {
    weights.push_back(static_cast<double>(bottoms[c] * iterations[c]));
    all += weights.back();
  }
  for (double& weight : weights) weight /= all;
  return weights;
}

}  // namespace espalier::split
