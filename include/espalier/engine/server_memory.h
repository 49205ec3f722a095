#pragma once
// What `--check` says of the server's memory. A protocol states what its conversation holds at
// once; what every server has is added here: what is resident before the run, the evaluations, and
// a checkpoint's copy.

#include <cstdint>
#include <string>

#include "espalier/train/experiment.h"

namespace espalier {

/// Bytes of a conversation, as upper bounds.
struct HeldBytes {
  std::int64_t most = 0;   ///< at once, beside the model before the first version
  std::int64_t saved = 0;  ///< of these, in a checkpoint
};

/// One line: the upper bound of the memory of a server on a rank of its own. Call it when the model
/// exists.
std::string server_line(const Experiment& experiment, const HeldBytes& held);

}  // namespace espalier
