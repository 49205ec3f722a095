#pragma once
// The asynchronous relatives of FedAvg: FedAsync mixes each update in when it arrives (Xie et al.
// 2019), FedBuff averages the differences of K updates (Nguyen et al. 2022), SSP adds each
// difference and bounds the lead of a client (Ho et al. 2013), and semi_async is FedAvg's mean over
// the updates of half of the clients. docs/methods/: fedasync.md, fedbuff.md, ssp.md,
// semi_async.md.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

void register_asynchronous(Catalogue& catalogue);

}  // namespace espalier::rounds
