#pragma once
// Sizes as people read them.

#include <cstdint>
#include <string>

namespace espalier {

/// "12.35 MB": two decimals, and more where fewer than four digits would remain ("0.004321 MB"), so
/// that a small size is never shown as zero, nor two of them as equal. A MB has 10^6 bytes.
std::string megabytes(std::int64_t bytes);

}  // namespace espalier
