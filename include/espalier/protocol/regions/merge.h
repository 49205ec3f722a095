#pragma once
// The merge of an exchange: the values that some regions sent, by their weights, into the shared
// copy.

#include <cstdint>
#include <vector>

#include "espalier/protocol/regions/exchange.h"
#include "espalier/protocol/regions/settings.h"
#include "espalier/protocol/regions/shared_copy.h"

namespace espalier::regions {

/// Operations of the server to merge the values of `members` regions.
std::int64_t merge_flops(const Fragment& fragment, std::int64_t members);

/// Merges the values of the members, in order, and sets weights, norms and merged values of the
/// exchange. Returns the L2 norm of the mean difference. NotFiniteError as SharedCopy::merge.
double merge_exchange(const Experiment& experiment, Weights weights,
                      const std::vector<std::int64_t>& members, Exchange& exchange,
                      SharedCopy& shared);

}  // namespace espalier::regions
