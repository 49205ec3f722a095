#pragma once
// The memory of the server of `split`, for `--check`: what exists at once in a round.

#include "espalier/engine/server_memory.h"
#include "espalier/protocol/split/costs.h"

namespace espalier::split {

/// In rounds with this plan.
HeldBytes held_bytes(const Experiment& experiment, const Parts& parts, const Costs& costs,
                     const RoundPlan& plan);

}  // namespace espalier::split
