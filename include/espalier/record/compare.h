#pragma once
// `espalier diff` and `espalier info`: what is in a run or checkpoint file, and the first value
// that differs.

#include <filesystem>
#include <optional>
#include <string>

namespace espalier {

enum class DiffScope {
  normal,  ///< every value and attribute but the wall fields
  values,  ///< columns and model only: attributes and /method left aside
  all,     ///< wall fields too
};

/// The first difference, by name ("/tasks/peak_bytes row 3: 1024 against 2048"), or nothing.
/// Values are compared bit for bit (0 and -0 differ), but NaNs are equal; a table is as long as its
/// shortest column. OutputError where a file cannot be read or is of neither kind.
std::optional<std::string> first_difference(const std::filesystem::path& a,
                                            const std::filesystem::path& b, DiffScope scope);

/// A few aligned lines on what the file holds. Errors as above.
std::string describe_file(const std::filesystem::path& path);

}  // namespace espalier
