#include "espalier/base/hash.h"

#define XXH_STATIC_LINKING_ONLY  // the size of a state
#include <xxhash.h>

namespace espalier {

std::uint64_t hash_bytes(const void* data, std::size_t bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}

struct Hasher::State {
  XXH3_state_t xxh3;
};

Hasher::Hasher() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->xxh3); }
Hasher::~Hasher() = default;

void Hasher::add(const void* data, std::size_t bytes) {
  XXH3_64bits_update(&state_->xxh3, data, bytes);
}

std::uint64_t Hasher::value() const { return XXH3_64bits_digest(&state_->xxh3); }

}  // namespace espalier
