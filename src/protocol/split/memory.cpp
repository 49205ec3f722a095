#include "espalier/protocol/split/memory.h"

#include <algorithm>

#include "espalier/device/emulated_time.h"
#include "espalier/protocol/split/bottom.h"
#include "espalier/train/optimizer.h"

namespace espalier::split {
namespace {

/// Workers' models, and those of one cluster as the message to its host.
std::int64_t models_bytes(const Costs& costs, const RoundPlan& plan) {
  std::int64_t largest = 0;
  for (const ClusterPlan& cluster : plan.clusters) {
    largest = std::max<std::int64_t>(largest, std::ssize(cluster.workers));
  }
  return times(workers_of(plan.clusters) + largest, costs.model_bytes());
}

/// Of each cluster features and gradients, each as they come and as they go on, or at the end its
/// bottoms and its top. Labels remain in the answers until their events.
std::int64_t parts_bytes(const Costs& costs, const RoundPlan& plan) {
  std::int64_t all = 0;
  for (const ClusterPlan& cluster : plan.clusters) {
    std::int64_t features = 0, labels = 0;
    for (const std::int64_t batch : batch_sizes(cluster)) {
      features += 2 * costs.feature_bytes(batch);
      labels += 2 * costs.label_bytes(batch);  // of 8 bytes
    }
    const std::int64_t weights =
        std::ssize(cluster.workers) * costs.bottom_bytes() + costs.top(1).message_bytes;
    all = later(all, later(std::max(features, weights), times(cluster.iterations, labels)));
  }
  return all;
}

}  // namespace

HeldBytes held_bytes(const Experiment& e, const Parts& parts, const Costs& costs,
                     const RoundPlan& plan) {
  const bool has_features = parts.exchange == Exchange::features;
  const std::int64_t workers = workers_of(plan.clusters);
  const std::int64_t copies = keeps_optimizer(e.train) ? Optimizer::copies(e.train) : 0;
  const std::int64_t tops =
      has_features ? copies * std::ssize(plan.clusters) * costs.top(1).message_bytes : 0;
  const auto states_of = [&](std::int64_t clients) {
    return copies * clients * costs.bottom_bytes() + tops;
  };
  const std::int64_t kept = states_of(std::min(e.fleet->size(), times(workers, e.rounds)));
  // The first weights, what the clusters exchange, states that come with it (one of them as it
  // comes and as it is kept), and gaps that the heap keeps where a list of states was.
  const std::int64_t one = has_features ? std::max(costs.bottom_bytes(), costs.top(1).message_bytes)
                                        : costs.bottom_bytes();
  const std::int64_t round = costs.model_bytes() +
                             (has_features ? parts_bytes : models_bytes)(costs, plan) +
                             states_of(workers) + copies * one;
  const std::int64_t gaps = kept > 0 ? costs.model_bytes() + kept : 0;  // as measured
  // A checkpoint takes the states as a list, which grows to twice its size.
  return {.most = kept + std::max(round, 2 * kept) + gaps, .saved = kept};
}

}  // namespace espalier::split
