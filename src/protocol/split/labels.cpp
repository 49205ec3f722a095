#include "espalier/protocol/split/labels.h"

#include <algorithm>
#include <cmath>

namespace espalier::split {
namespace {

void add(LabelShares& sum, const LabelShares& shares, double weight) {
  if (sum.empty()) sum.assign(shares.size(), 0.0);
  for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += weight * shares[j];
}

LabelShares divided(LabelShares sum, double weights) {
  for (double& share : sum) share /= weights;
  return sum;
}

}  // namespace

std::vector<LabelShares> label_shares(const Experiment& experiment) {
  std::vector<LabelShares> all;
  for (std::int64_t client = 0; client < experiment.partition->clients(); ++client) {
    const at::Tensor labels =
        experiment.data.train->labels(experiment.partition->samples(client)).flatten();
    LabelShares counts(static_cast<std::size_t>(experiment.model.shape.classes), 0.0);
    const std::int64_t* label = labels.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < labels.numel(); ++i) ++counts[static_cast<std::size_t>(label[i])];
    all.push_back(divided(std::move(counts), static_cast<double>(labels.numel())));
  }
  return all;
}

LabelShares mean_shares(std::span<const LabelShares> shares) {
  LabelShares sum;
  for (const LabelShares& own : shares) add(sum, own, 1);
  return divided(std::move(sum), static_cast<double>(shares.size()));
}

LabelShares cluster_shares(const ClusterPlan& cluster, std::span<const LabelShares> clients) {
  LabelShares sum;
  double samples = 0;
  for (const WorkerPlan& worker : cluster.workers) {
    const auto batch = static_cast<double>(worker.batch);
    add(sum, clients[static_cast<std::size_t>(worker.client)], batch);
    samples += batch;
  }
  return divided(std::move(sum), samples);
}

double divergence(std::span<const double> p, std::span<const double> q) {
  double sum = 0;
  for (std::size_t j = 0; j < p.size(); ++j) {
    if (p[j] > 0) sum += p[j] * std::log(p[j] / q[j]);
  }
  return std::max(0.0, sum);
}

}  // namespace espalier::split
