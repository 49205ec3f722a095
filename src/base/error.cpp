#include "espalier/base/error.h"

#include <atomic>

namespace espalier {

namespace {
std::atomic<int> the_rank{0};
}

void set_message_rank(int rank) { the_rank = rank; }
int message_rank() { return the_rank; }

void check_failed(const char* expression, const char* file, int line, const std::string& detail) {
  throw Error(
      Status::internal,
      formatted("internal error: check '{}' failed on rank {} at {}:{}{}{}; please report it",
                expression, message_rank(), file, line, detail.empty() ? "" : ": ", detail));
}

}  // namespace espalier
