#pragma once
// The 64-bit hash (XXH3) of checksums, cache keys and stream keys.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace espalier {

std::uint64_t hash_bytes(const void* data, std::size_t bytes, std::uint64_t seed = 0);
/// The same hash of bytes that come piece by piece.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  void add(const void* data, std::size_t bytes);
  std::uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

inline std::uint64_t hash_text(std::string_view text) {
  return hash_bytes(text.data(), text.size());
}

}  // namespace espalier
