#pragma once
// Enforced memory: a counting allocator behind every CPU tensor. Each allocation belongs to the
// scope (one client task) that made it, is released against that scope whoever frees it, and past
// the scope's cap the allocation throws c10::OutOfMemoryError. Counts requested bytes, so the
// figures are the same anywhere.

#include <cstdint>
#include <memory>

namespace espalier {

/// Installs the counting allocator; before the first tensor (a second call changes nothing). A
/// machine that itself runs out of memory is no client's outcome: that throws an internal Error.
void install_counting_allocator();

/// What one client task holds. Shared: blocks that outlive the task keep its count alive.
class MemoryAccount {
 public:
  /// cap_bytes <= 0: not capped. A request is refused when held + request > cap.
  static std::shared_ptr<MemoryAccount> create(std::int64_t cap_bytes);
  virtual ~MemoryAccount() = default;
  virtual std::int64_t held_bytes() const = 0;
  virtual std::int64_t peak_bytes() const = 0;
  virtual std::int64_t cap_bytes() const = 0;
  /// Size of the first request that was refused; 0 if none was.
  virtual std::int64_t refused_bytes() const = 0;
  /// Counts bytes that are no tensor (the client's own message, by size); throws past the cap like
  /// an allocation. Negative bytes release.
  virtual void charge(std::int64_t bytes) = 0;
};

/// While it lives, this thread's allocations belong to the account (a null account: to none).
/// Scopes nest and end in reverse order. Only this thread's: LibTorch runs the backward pass of CPU
/// tensors on the caller's thread, but with run.threads > 1 what its helper threads allocate
/// themselves is not counted.
class MemoryScope {
 public:
  explicit MemoryScope(std::shared_ptr<MemoryAccount> account);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;

 private:
  std::shared_ptr<MemoryAccount> account_;
  MemoryAccount* previous_ = nullptr;
};

}  // namespace espalier
