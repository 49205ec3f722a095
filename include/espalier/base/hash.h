#pragma once
// The 64-bit hash (XXH3) of checksums, cache keys and stream keys.

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace espalier {

std::uint64_t hash_bytes(const void* data, std::size_t bytes, std::uint64_t seed = 0);
inline std::uint64_t hash_text(std::string_view text) {
  return hash_bytes(text.data(), text.size());
}

}  // namespace espalier
