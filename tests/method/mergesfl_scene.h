#pragma once
// Fleets for the tests of MergeSFL's control: speeds that differ thirty-fold, and skewed labels.

#include <algorithm>
#include <cmath>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/method/mergesfl_cohort.h"
#include "purpose.h"

namespace espalier::split {

struct TestFleet {
  std::vector<double> sample_s;
  std::vector<LabelShares> labels;
  LabelShares reference;
};

/// `count` workers. The samples of each of ten classes are dealt by proportions from
/// Dirichlet(alpha); a sample takes 1, 2, 4, 8, 16 or 30 units of compute, give or take a fifth,
/// and 1 to 10 units of transfer.
inline TestFleet test_fleet(std::int64_t seed, std::int64_t count, double alpha) {
  constexpr double kUnits[] = {1, 2, 4, 8, 16, 30};
  Stream random(seed, kTest, count);
  TestFleet fleet;
  std::vector<std::vector<double>> samples(static_cast<std::size_t>(count),
                                           std::vector<double>(10, 0.0));
  for (std::size_t j = 0; j < 10; ++j) {
    double all = 0;
    std::vector<double> parts;
    for (std::int64_t i = 0; i < count; ++i) all += parts.emplace_back(random.gamma(alpha) + 1e-12);
    for (std::size_t i = 0; i < parts.size(); ++i) samples[i][j] = parts[i] / all;
  }
  for (std::vector<double>& own : samples) {
    double all = 0;
    for (const double part : own) all += part;
    for (double& part : own) part /= all;
    fleet.labels.push_back(own);
    const double compute = kUnits[random.below(6)] * (0.8 + 0.4 * random.uniform());
    fleet.sample_s.push_back((compute + std::pow(10, random.uniform())) * 1e-3);
  }
  fleet.reference = mean_shares(fleet.labels);
  return fleet;
}

inline std::int64_t sum_of(const Batches& batches) {
  std::int64_t sum = 0;
  for (const std::int64_t batch : batches) sum += batch;
  return sum;
}

}  // namespace espalier::split
