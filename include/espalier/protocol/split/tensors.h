#pragma once
// Small helpers of both parts: tensors as messages, bytes that count as memory, and values that are
// archived as the head of a job.

#include <ATen/ATen.h>

#include <algorithm>

#include "espalier/base/archive.h"
#include "espalier/device/memory.h"

namespace espalier::split {

/// A copy of a contiguous tensor's floats.
inline Bytes bytes_of(const at::Tensor& tensor) {
  Bytes bytes(static_cast<std::size_t>(tensor.numel()) * sizeof(float));
  std::copy_n(tensor.const_data_ptr<float>(), tensor.numel(), floats_of(bytes).data());
  return bytes;
}

/// A tensor of this shape with a copy of the floats, in the present memory scope.
inline at::Tensor tensor_of(const Bytes& bytes, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  ESPALIER_CHECK(tensor.numel() == std::ssize(floats_of(bytes)), "{} values for a tensor of {}",
                 floats_of(bytes).size(), tensor.numel());
  std::ranges::copy(floats_of(bytes), tensor.data_ptr<float>());
  return tensor;
}

/// Counts bytes outside tensors while it lives.
class Charge {
 public:
  Charge(MemoryAccount& account, std::int64_t bytes) : account_(account), bytes_(bytes) {
    account_.charge(bytes_);
  }
  ~Charge() { account_.charge(-bytes_); }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

 private:
  MemoryAccount& account_;
  std::int64_t bytes_;
};

template <class Value>
Bytes encoded(Value value, void (*archive_value)(Archive&, Value&)) {
  ByteArchive archive;
  archive_value(archive, value);
  return archive.take();
}

template <class Value>
Value decoded(const Bytes& bytes, void (*archive_value)(Archive&, Value&)) {
  ByteArchive archive(bytes);
  Value value;
  archive_value(archive, value);
  return value;
}

}  // namespace espalier::split
