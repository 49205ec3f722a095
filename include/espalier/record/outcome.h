#pragma once
// How a task ended. Every task that was sent has exactly one outcome; files hold its name.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "espalier/base/archive.h"

namespace espalier {

enum class Outcome {
  merged,
  dropped_stale,
  out_of_memory,
  crashed,
  rejected,     ///< its values are not finite
  unavailable,  ///< its client vanished
  unfinished,   ///< cut off by the end of the run
};
inline constexpr std::size_t kOutcomes = 7;

/// As it stands in files, which is also its name in the code.
const std::string& name_of(Outcome outcome);
/// The outcome of that name, of which there must be one.
Outcome outcome_called(const std::string& name);

/// As its name.
void archive_outcome(Archive& archive, Outcome& outcome);

/// Rows of a run file with each outcome, by name, over all tables with a column "outcome".
/// OutputError where it cannot be read.
std::map<std::string, std::int64_t> count_outcomes(const std::filesystem::path& run_file);

}  // namespace espalier
