#pragma once
// Declarations as text for the terminal: `espalier list options` and `espalier explain KEY`.

#include <string>

#include "espalier/config/options.h"

namespace espalier {

/// One aligned line per option in the order of declaration: key, default with unit, help.
std::string list_options(const OptionTable& table);

/// Type, unit, default, range or choices, help, and whether a resume may change it, of the option
/// that `key` names, as declared
/// ("device.*.memory_mb") or as used ("device.tx2.memory_mb"). InputError, with the nearest key, if
/// there is none.
std::string explain_option(const OptionTable& table, const std::string& key);

/// The same of every option, with an empty line between two.
std::string explain_options(const OptionTable& table);

/// The values that an input file may hold: "an integer from 1 to 10", "one of: a, b".
std::string expected_value(const Option& option);

}  // namespace espalier
