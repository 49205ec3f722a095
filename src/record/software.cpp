#include "espalier/record/software.h"

#ifndef ESPALIER_VERSION
#define ESPALIER_VERSION "unknown"
#endif
#ifndef ESPALIER_GIT_SHA
#define ESPALIER_GIT_SHA "unknown"
#endif

namespace espalier {

std::string software_version() { return ESPALIER_VERSION; }
std::string software_git_sha() { return ESPALIER_GIT_SHA; }

}  // namespace espalier
