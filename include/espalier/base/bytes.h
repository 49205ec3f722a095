#pragma once
// Raw bytes of messages and states. Growing such a buffer leaves the new bytes unset: they are
// about to be overwritten, and clearing megabytes for every message would cost a pass over memory.

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace espalier {

template <class T>
struct UnsetAllocator : std::allocator<T> {
  template <class U>
  struct rebind {
    using other = UnsetAllocator<U>;
  };
  template <class U>
  void construct(U*) noexcept {}
  template <class U, class... Arguments>
  void construct(U* place, Arguments&&... arguments) {
    ::new (static_cast<void*>(place)) U(std::forward<Arguments>(arguments)...);
  }
};

using Bytes = std::vector<std::byte, UnsetAllocator<std::byte>>;
using SharedBytes = std::shared_ptr<const Bytes>;
inline SharedBytes to_shared(Bytes bytes) {
  return std::make_shared<const Bytes>(std::move(bytes));
}

}  // namespace espalier
