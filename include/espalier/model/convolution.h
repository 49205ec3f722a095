#pragma once
// Convolution of images and signals for the layers: chooses LibTorch's kernel, saves the tensors
// for the backward pass, and predicts their memory. Weight gradients are added straight to their
// place in the flat buffer. A signal is an image of height 1.

#include <ATen/ATen.h>

#include <array>
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
  /// Along the width only, on maps of height 1. Weights are [out, in, kernel], as nn.Conv1d's.
  bool signal = false;

  /// Height and width.
  std::array<std::int64_t, 2> kernels() const { return {signal ? 1 : kernel, kernel}; }
  std::array<std::int64_t, 2> strides() const { return {signal ? 1 : stride, stride}; }
  std::array<std::int64_t, 2> paddings() const { return {signal ? 0 : padding, padding}; }
  /// Weights of one pair of an input and an output channel.
  std::int64_t taps() const { return kernels()[0] * kernels()[1]; }
  /// Width of the output for an input of that width; of images also the height.
  std::int64_t outputs(std::int64_t inputs) const {
    return (inputs + 2 * padding - kernel) / stride + 1;
  }
  /// Height of the output for an input of that height.
  std::int64_t output_rows(std::int64_t inputs) const { return signal ? inputs : outputs(inputs); }
};

/// x [batch, in, height, width], weight [out, in, kernel, kernel] (of a signal [out, in, kernel]),
/// bias [out] or none; returns [batch, out, output_rows(height), outputs(width)]. `first`: x is the
/// data.
at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight,
                    const std::optional<at::Tensor>& bias, const ConvolutionShape& shape,
                    bool first);

/// Adds the node of such a convolution to the tape and updates the tape's shape.
void add_convolution_cost(CostTape& tape, std::int64_t in, std::int64_t out,
                          const ConvolutionShape& shape, bool first, bool trains_weight = true,
                          bool trains_bias = true);

}  // namespace espalier
