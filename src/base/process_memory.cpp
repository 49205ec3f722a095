#include "espalier/base/process_memory.h"

#include <malloc.h>
#include <unistd.h>

#include <fstream>

namespace espalier {

ProcessMemory process_memory() {
  std::ifstream in("/proc/self/statm");
  std::int64_t addressed = 0, resident = 0;  // pages
  if (!(in >> addressed >> resident)) return {};
  const std::int64_t page = sysconf(_SC_PAGESIZE);
  return {addressed * page, resident * page};
}

void return_free_memory() { malloc_trim(0); }

}  // namespace espalier
