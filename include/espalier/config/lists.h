#pragma once
// Options that are lists of whole numbers: sizes, counts.

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/config/config.h"

namespace espalier {

/// The words of a text that commas separate, trimmed; empty ones are left out.
std::vector<std::string> words_of(const std::string& text);

/// The entries of a list option. InputError if one is not a whole number above 0; the message says
/// that it is not a `what`.
std::vector<std::int64_t> whole_numbers(const Config& config, const std::string& key,
                                        const std::string& what);

}  // namespace espalier
