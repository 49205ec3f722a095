#pragma once
// Bytes that participants without a server send to each other between two rounds, so that each gets
// the means of the values of its next submodel. Everything follows from the submodels, which all
// know; no list of units travels. What is sent is our definition (docs/methods/msfusion.md).

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/model/submodel.h"
#include "espalier/protocol/rounds/rules.h"

namespace espalier::rounds {

/// The weight of a participant in the means, which goes with its values.
inline constexpr std::int64_t kWeightBytes = 8;

/// Bytes of each participant after a round with the submodels `now`, before one with `next`. A
/// value that is in next of m is sent to m by each other participant that trained it. The owner of
/// a value is participant (row mod N), where row is its index along its entry's first dimension. A
/// value without a holder now comes from its owner; one without a holder next goes to its owner.
/// Each message has the sender's weight too. With an empty `now`: the first values, which the
/// participants receive from outside.
std::vector<Traffic> peer_traffic(const Layout& layout, std::span<const Submodel> now,
                                  std::span<const Submodel> next);

}  // namespace espalier::rounds
