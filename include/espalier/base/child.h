#pragma once
// Work on a file that may be damaged, in a process of its own. The HDF5 library does not survive
// every damaged byte: it crashes, is busy for ever, or takes any amount of memory. In a child
// process with limits, each of these is an error with a sentence, and the program goes on.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "espalier/base/error.h"

namespace espalier {

/// What a child may use, beside the memory that it has from its parent.
struct ChildLimits {
  std::int64_t cpu_s;
  std::int64_t memory_bytes;
};
/// Much more than an undamaged file of `bytes` bytes needs.
ChildLimits limits_for(std::int64_t bytes);

/// The text that `work` returns. It runs in a copy of this process, so nothing else that it changes
/// is seen here, but for memory that both share; it must not use MPI, and what it prints is lost.
/// Its Errors are thrown here again, with their status. An Error of status `damaged`, which names
/// `file`, if it crashes or passes a limit.
std::string in_child(const std::filesystem::path& file, Status damaged, const ChildLimits& limits,
                     const std::function<std::string()>& work);

}  // namespace espalier
