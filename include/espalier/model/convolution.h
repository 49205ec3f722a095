#pragma once
// Two-dimensional convolution for the layers: chooses LibTorch's kernel, saves the tensors for the
// backward pass, and predicts their memory. Weight gradients are added straight to their place in
// the flat buffer.

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>

#include "espalier/model/model.h"

namespace espalier {

struct ConvolutionShape {
  std::int64_t kernel = 1;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  bool bias = true;
  /// torchvision's first values of convolutions (normal, He et al. 2015 by outputs; biases 0)
  /// instead of PyTorch's default.
  bool he_normal = false;

  /// Height or width of the output for an input of that height or width.
  std::int64_t outputs(std::int64_t inputs) const {
    return (inputs + 2 * padding - kernel) / stride + 1;
  }
};

/// x [batch, in, height, width], weight [out, in, kernel, kernel], bias [out] or none; returns
/// [batch, out, outputs(height), outputs(width)]. `first`: x is the data.
at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight,
                    const std::optional<at::Tensor>& bias, const ConvolutionShape& shape,
                    bool first);

/// Adds the node of such a convolution to the tape and updates the tape's shape.
void add_convolution_cost(CostTape& tape, std::int64_t in, std::int64_t out,
                          const ConvolutionShape& shape, bool first, bool trains_weight = true);

}  // namespace espalier
