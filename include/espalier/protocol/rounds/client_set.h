#pragma once
// A set of clients, stored as one bit for each registered client: 125 kB for a million. A search
// for the clients that are in two sets compares 64 of each at a time.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace espalier::rounds {

class ClientSet {
 public:
  ClientSet() = default;
  /// Empty, for clients 0 to `clients` - 1.
  explicit ClientSet(std::int64_t clients)
      : words_(static_cast<std::size_t>((clients + kBits - 1) / kBits)) {}

  std::int64_t size() const { return size_; }
  bool contains(std::int64_t client) const { return (word(client) & bit(client)) != 0; }
  void insert(std::int64_t client) {
    if (contains(client)) return;
    word(client) |= bit(client);
    ++size_;
  }
  void erase(std::int64_t client) {
    if (!contains(client)) return;
    word(client) &= ~bit(client);
    --size_;
  }

  /// The first client from `first` on that is in this set and in `other` (null: all clients); the
  /// number of bits if there is none.
  std::int64_t next(std::int64_t first, const ClientSet* other = nullptr) const {
    auto at = static_cast<std::size_t>(first / kBits);
    std::uint64_t left = ~std::uint64_t{0} << (first % kBits);
    for (; at < words_.size(); ++at, left = ~std::uint64_t{0}) {
      left &= words_[at];
      if (other != nullptr) left &= other->words_[at];
      if (left != 0) return static_cast<std::int64_t>(at) * kBits + std::countr_zero(left);
    }
    return end();
  }
  std::int64_t end() const { return std::ssize(words_) * kBits; }

  std::vector<std::int64_t> ascending() const {
    std::vector<std::int64_t> clients;
    for (std::int64_t c = next(0); c < end(); c = next(c + 1)) clients.push_back(c);
    return clients;
  }

 private:
  static constexpr std::int64_t kBits = 64;

  static std::uint64_t bit(std::int64_t client) { return std::uint64_t{1} << (client % kBits); }
  std::uint64_t& word(std::int64_t client) {
    return words_[static_cast<std::size_t>(client / kBits)];
  }
  std::uint64_t word(std::int64_t client) const {
    return words_[static_cast<std::size_t>(client / kBits)];
  }

  std::vector<std::uint64_t> words_;
  std::int64_t size_ = 0;
};

}  // namespace espalier::rounds
