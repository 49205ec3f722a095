#pragma once
// Tensors as messages.

#include <ATen/ATen.h>

#include <algorithm>

#include "espalier/base/bytes.h"
#include "espalier/base/error.h"

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

}  // namespace espalier::split
