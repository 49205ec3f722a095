#pragma once
// Entries of a model by a list of patterns, as options name them (method.personal, train.freeze).

#include <string>
#include <vector>

#include "espalier/config/config.h"
#include "espalier/model/model.h"

namespace espalier {

/// What the patterns of an option may be, for its help text.
inline constexpr const char* kEntryPatterns =
    "names of blocks or parameters, with * and ?, separated by commas; norms = those of all norms, "
    "adapters = those of all adapters";

/// Whether the name fits a pattern with * and ?.
bool fits_pattern(const std::string& pattern, const std::string& name);

/// Per entry of the model whether the list option `key` names it. Only trained entries are named.
/// InputError if a pattern names none.
std::vector<bool> named_entries(const Config& config, const std::string& key, const Model& model);

}  // namespace espalier
