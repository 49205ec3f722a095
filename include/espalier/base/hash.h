#pragma once
// One 64-bit hash (XXH3) for checksums, cache keys and stream keys, so that there is one to trust.

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace espalier {

std::uint64_t hash_bytes(const void* data, std::size_t bytes, std::uint64_t seed = 0);
inline std::uint64_t hash_text(std::string_view text) {
  return hash_bytes(text.data(), text.size());
}

}  // namespace espalier
