#pragma once
// The loop of any run on rank 0: one event after the other until a stop is reached or requested,
// with evaluations and checkpoints when they are due.

#include <optional>
#include <string>

#include "espalier/engine/protocol.h"

namespace espalier {

/// Runs from the beginning, or from a restored checkpoint (Run::archive), to the end or to a
/// request to stop. Returns the request if it ended the run.
std::optional<std::string> drive(Run& run, Conversation& conversation, bool is_restored);

}  // namespace espalier
