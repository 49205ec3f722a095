#pragma once
// Raw bytes of messages and states. When such a buffer grows, its new bytes are not set, because
// the caller overwrites them; setting them to zero would cost a pass over memory per message.

#include <cstddef>
#include <memory>
#include <span>
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

/// The bytes as 32-bit floats, without a copy; the span is valid as long as the bytes are.
inline std::span<const float> floats_of(const Bytes& bytes) {
  return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
}
inline std::span<float> floats_of(Bytes& bytes) {
  return {reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float)};
}

}  // namespace espalier
