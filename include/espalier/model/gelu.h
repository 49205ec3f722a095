#pragma once
// GELU (Hendrycks and Gimpel 2016) with its derivative computed in the same pass. The value and the
// derivative need the same exponential, which is most of the work; autograd saves the input and
// computes the exponential again in the backward pass.

#include <ATen/ATen.h>

namespace espalier {

/// x Phi(x) of any shape, with Phi the normal distribution's cumulative function, or with `tanh`
/// the form of GPT-2, x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. A new tensor. For floats
/// on the CPU within 5e-7 (1 + |x|) of the exact value, and so is the derivative, with the same
/// bits on every instruction set; for other tensors at::gelu. The backward pass runs once, because
/// the gradient is written into the derivative's memory.
at::Tensor gelu(const at::Tensor& x, bool tanh);

}  // namespace espalier
