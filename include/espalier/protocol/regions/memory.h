#pragma once
// The memory of the server of `regions`, for `--check`: what exists at once at the moments that
// need most.

#include "espalier/engine/server_memory.h"
#include "espalier/protocol/regions/settings.h"

namespace espalier::regions {

/// The most that is sent in any `steps` steps that follow each other, at most as many as fragments
/// are under way; `sizes`: of each fragment.
std::int64_t most_sent(const ScheduleSettings& schedule, const std::vector<std::int64_t>& sizes,
                       std::int64_t steps);
HeldBytes held_bytes(const Experiment& experiment, const ServerSettings& settings);

}  // namespace espalier::regions
