#pragma once
// Memory that is written for the first time costs a visit of the kernel for each page, which takes
// longer than the values: a fresh copy of a model took five times a copy into used memory.

#include <cstddef>

namespace espalier {

/// Asks for large pages in memory that was just allocated, and not written yet. Of no effect on
/// small memory, and where the system has none.
void prefer_large_pages(void* data, std::size_t bytes);

}  // namespace espalier
