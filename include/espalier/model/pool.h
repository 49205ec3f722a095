#pragma once
// ReLU followed by 2x2 max-pooling with stride 2 as one operation. LibTorch's max-pooling is not
// vectorised for channels-first tensors and keeps the rectified input and 64-bit indices; this
// operation reads its input once and keeps one byte per output. Maximum and selection only, so its
// values do not depend on the instruction set.

#include <ATen/ATen.h>

namespace espalier {

/// x: [batch, channels, height, width], float, on the CPU, height and width >= 2; returns [batch,
/// channels, height / 2, width / 2] (rounded down). Values and gradients equal those of
/// at::max_pool2d(at::relu(x), 2) bit for bit: the first of equal values gets the gradient, an
/// output of zero passes no gradient, a NaN stays a NaN.
at::Tensor relu_max_pool2(const at::Tensor& x);

}  // namespace espalier
