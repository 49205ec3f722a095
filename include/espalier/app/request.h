#pragma once
// What the user asks of `espalier run`: an input file, flags, and values that replace the file's.

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "espalier/base/log.h"

namespace espalier {

/// Whether a run that was begun is gone on with.
enum class Resume { automatic, never, require };

struct Request {
  std::string input;
  bool overwrite = false;
  Resume resume = Resume::automatic;
  std::optional<std::chrono::seconds> wall;  ///< to stop after
  bool check = false;
  bool print_config = false;
  Verbosity verbosity = Verbosity::normal;
  std::vector<std::pair<std::string, std::string>> settings;  ///< --section.key=value
};

/// InputError where a word is neither an input file, nor a flag, nor --section.key=value.
Request parse_request(std::vector<std::string> arguments);
/// The flags, one per line with a word of help.
std::string describe_flags();

}  // namespace espalier
