#pragma once
// fmt's texts, with fmt's own code compiled once (in base/format.cpp): header-only, it would be
// compiled again in every file that builds a sentence, which is half of what such a file costs.
// A file that formats a list includes <fmt/ranges.h> for fmt::join.

// LibTorch carries fmt headers of its own, which the compiler finds before the system's and which
// the system's fmt library does not match; header-only works with either.
#ifndef FMT_HEADER_ONLY
#define FMT_HEADER_ONLY
#endif
#include <fmt/format.h>

#include <string>

namespace espalier {

/// fmt::vformat.
std::string formatted_from(fmt::string_view format, fmt::format_args args);

/// fmt::format: `format` is checked against the arguments when it is compiled.
template <typename... Args>
std::string formatted(fmt::format_string<Args...> format, Args&&... args) {
  return formatted_from(format, fmt::make_format_args(args...));
}

}  // namespace espalier
