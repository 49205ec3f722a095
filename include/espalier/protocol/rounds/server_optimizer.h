#pragma once
// The server's optimiser: it takes the change that a merge rule made as a pseudo-gradient, and
// makes a step of its own along it. So it works with every merge rule. Sources: Reddi et al. 2021
// (FedAdagrad, FedAdam, FedYogi), Hsu et al. 2019 (FedAvgM); docs/methods/server_optimizers.md.

#include <memory>

#include "espalier/protocol/rounds/rules.h"

namespace espalier::rounds {

/// method.server_optimizer, method.server_lr, method.server_momentum, ...
void declare_server_options(OptionTable& table);
/// Whether the server has an optimiser. If it has none, a merge rule with a rate of its own reads
/// method.server_lr and method.server_momentum.
bool has_server_optimizer(const Config& config);
/// Copies of the model that the server's optimiser has during a merge.
std::int64_t server_optimizer_copies(const Config& config);
/// The rule, followed by the step of the server's optimiser; the rule itself if there is none.
///
/// With d the change of a value by the rule, for each value that an update holds or the rule
/// changed:
///   sgd        w + lr d
///   momentum   v <- momentum v + d;  w + lr v
///   adagrad    m <- beta1 m + (1 - beta1) d;  v <- v + d^2;  w + lr m / (sqrt(v) + tau)
///   adam       ... v <- beta2 v + (1 - beta2) d^2
///   yogi       ... v <- v - (1 - beta2) d^2 sign(v - d^2)
/// m begins at 0 and v at tau^2 (momentum: 0). In double, rounded once. Other values keep their
/// place and their state. sgd with rate 1, and momentum with rate 1 and momentum 0, give the rule's
/// result, bit for bit.
std::unique_ptr<MergeRule> with_server_optimizer(const Config& config,
                                                 std::unique_ptr<MergeRule> rule);

}  // namespace espalier::rounds
