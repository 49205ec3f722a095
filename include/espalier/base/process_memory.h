#pragma once
// The memory of this process as the system counts it.

#include <cstdint>

namespace espalier {

struct ProcessMemory {
  std::int64_t addressed = 0;  ///< bytes of its address space, which RLIMIT_AS limits
  std::int64_t resident = 0;   ///< of these, bytes in memory
};
/// Zeros where the system does not tell.
ProcessMemory process_memory();
/// Gives free pages of the heap back to the system, also those between blocks in use.
void return_free_memory();

}  // namespace espalier
