#pragma once
// Who wrote a file: the version and the git commit that the build was made from, as every record
// carries them.

#include <string>

namespace espalier {

/// "0.1.0", or "unknown" where the build did not define ESPALIER_VERSION.
std::string software_version();
/// The commit, or "unknown" where the build did not define ESPALIER_GIT_SHA.
std::string software_git_sha();

}  // namespace espalier
