#pragma once
// The value of an option of any type as text, for code that compares options without knowing their
// types.

#include <string>

#include "espalier/config/config.h"

namespace espalier {

/// One value, not a list: a flag as "true" or "false", a real in its shortest form.
std::string option_text(const Config& config, const std::string& key);

}  // namespace espalier
