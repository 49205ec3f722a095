#pragma once
// Files that come with the program (a small data set, the catalogue of devices) are in the folder
// inputs/ of its source. The program is in the build folder, the tests are in a folder below that.

#include <filesystem>
#include <vector>

namespace espalier {

/// Where inputs/`name` may be: beside and above the executable's folder, then in the working
/// folder.
std::vector<std::filesystem::path> shipped_places(const std::string& name);

}  // namespace espalier
