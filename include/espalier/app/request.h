#pragma once
// The arguments of `espalier run`: an input file, flags, and values that replace those of the file.

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "espalier/base/log.h"

namespace espalier {

/// Whether to resume an existing run.
enum class Resume { automatic, never, require };

struct Request {
  std::string input;
  bool overwrite = false;
  Resume resume = Resume::automatic;
  std::optional<std::chrono::seconds> wall;  ///< time until the run stops
  bool check = false;
  bool print_config = false;
  Verbosity verbosity = Verbosity::normal;
  std::vector<std::pair<std::string, std::string>> settings;  ///< --section.key=value
};

/// InputError if a word is neither an input file, nor a flag, nor --section.key=value.
Request parse_request(std::vector<std::string> arguments);
/// The earlier of `begun` + --wall and the end of the Slurm job, minus the time to write a
/// checkpoint; none if neither is given.
std::optional<std::chrono::steady_clock::time_point> stop_time(
    const Request& request, std::chrono::steady_clock::time_point begun);
/// "--resume", "--quiet", ...
std::vector<std::string> flag_names();
/// The flags, one per line, with their help.
std::string describe_flags();

}  // namespace espalier
