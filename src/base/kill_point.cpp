#include "espalier/base/kill_point.h"

#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <string>

#include "espalier/base/error.h"

namespace espalier {
namespace {

struct KillRequest {
  std::string name;
  long passes = 1;
  int rank = -1;  // any

  KillRequest() {
    const char* text = std::getenv("ESPALIER_KILL_AT");
    if (text == nullptr) return;
    name = text;
    if (const auto at = name.find('@'); at != std::string::npos) {
      rank = std::atoi(name.c_str() + at + 1);
      name.resize(at);
    }
    if (const auto colon = name.find(':'); colon != std::string::npos) {
      passes = std::atol(name.c_str() + colon + 1);
      name.resize(colon);
    }
  }
};

}  // namespace

void kill_point(const char* name) {
  static const KillRequest request;
  static std::atomic<long> passed{0};
  if (request.name.empty() || request.name != name) return;
  if (request.rank >= 0 && request.rank != message_rank()) return;
  if (++passed == request.passes) raise(SIGKILL);
}

}  // namespace espalier
