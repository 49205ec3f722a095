#pragma once
// DC-ASGD: asynchronous SGD whose gradients are corrected for the delay,
//   w <- w - eta (g + lambda g*g*(w - w_sent)),   g = (w_sent - w_trained) / eta,
// eta the local learning rate times the local steps. Adaptive: lambda = lambda_0 / sqrt(ms + eps)
// with a running mean ms of g*g per client. Source: Zheng et al. 2017; docs/methods/dc_asgd.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_dc_asgd(Catalogue& catalogue);

}  // namespace espalier::rounds
