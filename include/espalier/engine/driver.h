#pragma once
// The loop of any run on rank 0: event after event until a stop is reached or requested, with
// evaluations and checkpoints when they are due.

#include <optional>
#include <string>

#include "espalier/engine/protocol.h"

namespace espalier {

/// From the beginning, or from what was restored (Run::archive), to the end or to a request to
/// stop. Returns the request, if that ended it.
std::optional<std::string> drive(Run& run, Conversation& conversation, bool is_restored);

}  // namespace espalier
