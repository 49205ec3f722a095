#pragma once
// Equality to the last bit: for at::equal, -0 equals 0 and no NaN equals another.

#include <ATen/ATen.h>

#include <cstring>

namespace espalier {

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous();
  const at::Tensor y = b.contiguous();
  return x.sizes() == y.sizes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(),
                                               static_cast<std::size_t>(x.nbytes())) == 0;
}

}  // namespace espalier
