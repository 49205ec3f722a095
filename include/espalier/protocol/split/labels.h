#pragma once
// How labels are mixed: the shares of each label among the samples of a client, or among those that
// a top sees from its workers, and how far a mix is from that of all clients.

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/protocol/split/plan.h"

namespace espalier::split {

using LabelShares = std::vector<double>;  ///< of each label; they sum to 1

/// Of the samples that each client trains on.
std::vector<LabelShares> label_shares(const Experiment& experiment);
/// With equal weights.
LabelShares mean_shares(std::span<const LabelShares> shares);
/// Of the planned batches of a cluster together.
LabelShares cluster_shares(const ClusterPlan& cluster, std::span<const LabelShares> clients);
/// KL(p || q) = sum p ln(p / q) in nats, where q is above 0 wherever p is.
double divergence(std::span<const double> p, std::span<const double> q);

}  // namespace espalier::split
