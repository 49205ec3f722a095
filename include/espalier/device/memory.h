#pragma once
// Enforced memory: a counting allocator behind every CPU tensor. Each allocation belongs to the
// scope (one client task) that made it, is released from that scope by any thread that frees it,
// and throws c10::OutOfMemoryError beyond the scope's cap. Counts requested bytes, so the figures
// are the same on every machine.

#include <cstdint>
#include <memory>

namespace espalier {

/// Installs the counting allocator; before the first tensor (a second call changes nothing). If the
/// machine itself runs out of memory, it throws an InputError, because that is not an outcome of a
/// client.
void install_counting_allocator();

/// The memory that one client task holds. Blocks that outlive the task keep the account alive.
class MemoryAccount {
 public:
  /// cap_bytes <= 0: not capped. A request is refused when held + request > cap.
  static std::shared_ptr<MemoryAccount> create(std::int64_t cap_bytes);
  virtual ~MemoryAccount() = default;
  virtual std::int64_t held_bytes() const = 0;
  virtual std::int64_t peak_bytes() const = 0;
  virtual std::int64_t cap_bytes() const = 0;
  /// Size of the first refused request; 0 if there is none.
  virtual std::int64_t refused_bytes() const = 0;
  /// Counts bytes outside tensors (the size of the client's message); throws beyond the cap like an
  /// allocation. Negative bytes release.
  virtual void charge(std::int64_t bytes) = 0;
};

/// Counts bytes outside tensors in the account of this thread's scope, as MemoryAccount::charge
/// does, until the last copy of the result is gone; null without a scope.
std::shared_ptr<const void> charge_scope(std::int64_t bytes);

/// While it lives, this thread's allocations belong to the account (a null account: to none).
/// Scopes nest and end in reverse order. Allocations of other threads are not counted: LibTorch
/// runs the backward pass of CPU tensors on the caller's thread, but helper threads (run.threads >
/// 1) may allocate too.
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
