#pragma once
// Bytes of a memory account that are not tensors, such as messages.

#include <cstdint>
#include <utility>

#include "espalier/device/memory.h"

namespace espalier {

/// Counts bytes outside tensors while it lives.
class Charge {
 public:
  /// `account` must outlive it.
  Charge(MemoryAccount& account, std::int64_t bytes) : account_(&account), bytes_(bytes) {
    account.charge(bytes);
  }
  Charge(Charge&& other) noexcept
      : account_(other.account_), bytes_(std::exchange(other.bytes_, 0)) {}
  ~Charge() {
    if (bytes_ != 0) account_->charge(-bytes_);
  }
  Charge& operator=(const Charge&) = delete;

 private:
  MemoryAccount* account_;
  std::int64_t bytes_;
};

}  // namespace espalier
