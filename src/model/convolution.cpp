#include "espalier/model/convolution.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>

namespace espalier {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// With a single input channel LibTorch's own im2col kernel is up to five times as fast forward as
// oneDNN, which pads the channels to a vector; oneDNN is faster backward and with more channels.
// For signals with long kernels oneDNN takes up to five times the memory of the layer, in amounts
// that jump with sizes and batch; so these are computed by columns in both passes.
// With few samples at a time the columns fit the cache, and their memory is small.
constexpr std::int64_t kSamplesAtOnce = 4;

/// Weights in the form of an image's, [out, in, height, width].
at::Tensor of_image(const at::Tensor& weight) {
  return weight.dim() == 3 ? weight.unsqueeze(2) : weight;
}

bool few_at_once(std::int64_t channels, const ConvolutionShape& s, bool first) {
  return s.signal || (first && channels == 1);
}

at::Tensor forward_few_at_once(const at::Tensor& x, const at::Tensor& weight,
                               const std::optional<at::Tensor>& bias, const ConvolutionShape& s) {
  const std::int64_t batch = x.size(0);
  at::Tensor out = at::empty(
      {batch, weight.size(0), s.output_rows(x.size(2)), s.outputs(x.size(3))}, x.options());
  for (std::int64_t i = 0; i < batch; i += kSamplesAtOnce) {
    const std::int64_t count = std::min(kSamplesAtOnce, batch - i);
    at::Tensor part = out.narrow(0, i, count);
    at::_slow_conv2d_forward_out(part, x.narrow(0, i, count), weight, s.kernels(), bias,
                                 s.strides(), s.paddings());
  }
  return out;
}

at::Tensor run_forward(const at::Tensor& x, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, const ConvolutionShape& s,
                       bool first) {
  if (few_at_once(x.size(1), s, first)) return forward_few_at_once(x, of_image(weight), bias, s);
  return at::conv2d(x, of_image(weight), bias, s.strides(), s.paddings());
}

// With few positions and many channels (the last stages of a deep network) the weights are the
// largest tensor, and oneDNN writes their gradient three times (in blocks, in order, added). One
// matrix product of columns adds it in place; it is faster if the columns are smaller than the
// weights.
bool by_columns(std::int64_t positions, std::int64_t out) { return 2 * positions <= out; }

// A layer with few weights computes both gradients in one call, because two calls take longer. A
// large layer, or one with a stride (whose input gradient needs copies), computes the weights'
// gradient first, so that its scratch is freed before the input's gradient is allocated.
bool at_once(std::int64_t weights, const ConvolutionShape& s) {
  return weights <= 1 << 14 && s.stride == 1;
}

/// x [batch, in, h, w] as columns [in * taps, batch * output positions].
at::Tensor columns(const at::Tensor& x, const ConvolutionShape& s, std::int64_t out_height,
                   std::int64_t out_width) {
  const at::Tensor contiguous = x.contiguous();
  const std::int64_t batch = x.size(0);
  const std::int64_t channels = x.size(1);
  const std::int64_t height = x.size(2);
  const std::int64_t width = x.size(3);
  const std::int64_t kernel_height = s.kernels()[0];
  const std::int64_t stride_down = s.strides()[0];
  const std::int64_t padding_above = s.paddings()[0];
  at::Tensor result = at::empty({channels * s.taps(), batch * out_height * out_width}, x.options());
  const float* const from = contiguous.const_data_ptr<float>();
  float* to = result.mutable_data_ptr<float>();
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    for (std::int64_t ky = 0; ky < kernel_height; ++ky) {
      for (std::int64_t kx = 0; kx < s.kernel; ++kx) {
        // Outputs whose input is within the row.
        const std::int64_t left = s.padding - kx;
        const std::int64_t begin =
            std::min(out_width, left > 0 ? (left + s.stride - 1) / s.stride : 0);
        const std::int64_t reach = width - 1 + left;
        const std::int64_t end =
            reach < 0 ? begin : std::clamp(reach / s.stride + 1, begin, out_width);
        for (std::int64_t sample = 0; sample < batch; ++sample) {
          const float* plane = from + (sample * channels + channel) * height * width;
          for (std::int64_t oy = 0; oy < out_height; ++oy, to += out_width) {
            const std::int64_t y = oy * stride_down - padding_above + ky;
            if (y < 0 || y >= height) {
              std::fill_n(to, out_width, 0.0F);
              continue;
            }
            const float* row = plane + y * width - left;
            for (std::int64_t ox = 0; ox < begin; ++ox) to[ox] = 0;
            for (std::int64_t ox = begin; ox < end; ++ox) to[ox] = row[ox * s.stride];
            for (std::int64_t ox = end; ox < out_width; ++ox) to[ox] = 0;
          }
        }
      }
    }
  }
  return result;
}

/// Adds the weight's gradient to `place` [out, in, taps...], `at_once` samples after the other. g:
/// the output's gradient.
void add_by_columns(const at::Tensor& place, const at::Tensor& x, const at::Tensor& g,
                    const ConvolutionShape& s, std::int64_t at_once) {
  const std::int64_t batch = g.size(0);
  const std::int64_t out = g.size(1);
  for (std::int64_t i = 0; i < batch; i += at_once) {
    const std::int64_t count = std::min(at_once, batch - i);
    const at::Tensor input = columns(x.narrow(0, i, count), s, g.size(2), g.size(3));
    const at::Tensor output = g.narrow(0, i, count).transpose(0, 1).reshape({out, -1});
    place.view({out, -1}).addmm_(output, input.t());
  }
}

/// The gradient of x, a signal. g: the output's gradient.
at::Tensor input_gradient_few_at_once(const at::Tensor& x, const at::Tensor& weight,
                                      const at::Tensor& g, const ConvolutionShape& s) {
  const std::int64_t batch = x.size(0);
  const auto gradient = [&](std::int64_t i, std::int64_t count) {
    return std::get<0>(at::_slow_conv2d_backward(
        g.narrow(0, i, count), x.narrow(0, i, count), of_image(weight), s.kernels(), s.strides(),
        s.paddings(), std::array<bool, 3>{true, false, false}));
  };
  if (batch <= kSamplesAtOnce) return gradient(0, batch);
  at::Tensor whole = at::empty(x.sizes(), x.options());
  for (std::int64_t i = 0; i < batch; i += kSamplesAtOnce) {
    const std::int64_t count = std::min(kSamplesAtOnce, batch - i);
    whole.narrow(0, i, count).copy_(gradient(i, count));
  }
  return whole;
}

struct Convolution : torch::autograd::Function<Convolution> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                            std::int64_t stride, std::int64_t padding, bool first) {
    context->save_for_backward({x, weight});
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    context->saved_data["bias"] = bias.has_value();
    const ConvolutionShape s = shape_of(*context, weight);
    return run_forward(x, weight, bias, s, first);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor& g = gradients[0];
    const ConvolutionShape s = shape_of(*context, weight);
    const at::Tensor kernels = of_image(weight);
    const auto gradient = [&](std::array<bool, 3> of) {
      return at::convolution_backward(g, x, kernels, at::IntArrayRef{weight.size(0)}, s.strides(),
                                      s.paddings(), {1, 1}, false, {0, 0}, 1, of);
    };
    const bool wants_input = context->needs_input_grad(0);
    at::Tensor of_input, of_weight, of_bias;
    at::Tensor place = weight.grad();
    if (!context->needs_input_grad(1)) {  // the weight is frozen
      if (s.bias && context->needs_input_grad(2)) of_bias = g.sum({0, 2, 3});
    } else if (place.defined() && (s.signal || by_columns(g.numel() / g.size(1), g.size(1)))) {
      add_by_columns(place, x, g, s, s.signal ? kSamplesAtOnce : g.size(0));
      if (s.bias) of_bias = g.sum({0, 2, 3});
    } else {
      std::tie(of_input, of_weight, of_bias) =
          gradient({wants_input && at_once(weight.numel(), s), true, s.bias});
      of_weight = of_weight.view_as(weight);
      if (place.defined()) {
        place.add_(of_weight);
        of_weight = at::Tensor();
      }
    }
    if (wants_input && !of_input.defined()) {
      of_input = s.signal ? input_gradient_few_at_once(x, weight, g, s)
                          : std::get<0>(gradient({true, false, false}));
    }
    return {of_input, of_weight, of_bias, {}, {}, {}};
  }

 private:
  /// The saved shape, with the sizes of the weights.
  static ConvolutionShape shape_of(torch::autograd::AutogradContext& context,
                                   const at::Tensor& weight) {
    ConvolutionShape s{weight.size(-1), context.saved_data["stride"].toInt(),
                       context.saved_data["padding"].toInt(), context.saved_data["bias"].toBool()};
    s.signal = weight.dim() == 3;
    return s;
  }
};

/// Memory that oneDNN takes beside input and output: copies in blocks of 16 (AVX-512) or 8
/// channels. Measured with oneDNN 3 on 1 to 512 channels and maps of 4 to 32: always an upper
/// bound, tight for large maps.
void add_scratch(NodeCost& cost, std::int64_t in, std::int64_t out, std::int64_t in_map,
                 std::int64_t out_map, std::int64_t batch, const ConvolutionShape& s) {
  const bool wide = at::get_cpu_capability() == "AVX512";
  const std::int64_t lanes = wide ? 16 : 8;
  const std::int64_t taps = s.taps();
  const std::int64_t in_blocks = round_up(in, lanes) * in_map;
  const std::int64_t out_blocks = round_up(out, lanes) * out_map;
  const std::int64_t weight_blocks =
      round_up(in, lanes) * round_up(out, lanes) * taps * kFloatBytes;
  const std::int64_t weight = in * out * taps * kFloatBytes;
  const std::int64_t threads = at::get_num_threads();
  // One sample without the inputs that a stride skips, if the kernel is a single tap.
  const bool skips = s.stride > 1 && s.kernel == 1;
  const std::int64_t picked = skips ? threads * round_up(in, lanes) * (out_map / batch) : 0;

  const std::int64_t forward_input = in < lanes ? 0 : in_blocks;
  cost.forward_scratch_bytes =
      std::max(forward_input + out_blocks + weight_blocks + picked - out * out_map,
               out_blocks + weight_blocks) +
      kSmallTensors;
  // The kernels of the weights' gradient read up to 3 channels without a copy, and up to 8 as one
  // block of 8.
  const bool no_copy = wide ? in <= 3 : in == 3;
  const std::int64_t backward_input = no_copy ? 0 : in <= 8 ? 8 * in_map : in_blocks;
  std::int64_t peak = backward_input + out_blocks + weight_blocks + std::max(weight, picked);
  if (by_columns(out_map / kFloatBytes, out)) peak = (in * taps + out) * out_map;
  if (!cost.trains) peak = 0;
  if (cost.input_gradient) {
    // With separate calls the weights' gradient is computed before the input's gradient exists.
    // With a stride, the input's gradient is computed in another order of dimensions and copied.
    const std::int64_t input = in * in_map;
    const std::int64_t copies = s.stride > 1 ? 2 * input : in_blocks;
    const bool separate = !at_once(in * out * taps, s) || by_columns(out_map / kFloatBytes, out);
    peak = std::max(std::max(in_blocks + out_blocks + weight_blocks, copies + input) - input,
                    separate ? peak - input : peak);
  }
  // Several threads sum the weights' gradient, each in its own copy.
  constexpr std::int64_t kBarriers = 20480;
  if (threads > 1) peak += threads * weight_blocks + kBarriers;
  cost.backward_scratch_bytes = peak + kSmallTensors;
}

/// Bytes of the backward pass of a signal's convolution. `map`: of one channel of the samples that
/// are computed at once.
std::int64_t signal_scratch(const NodeCost& cost, std::int64_t in, std::int64_t out,
                            std::int64_t in_map, std::int64_t map, std::int64_t batch,
                            const ConvolutionShape& s) {
  const std::int64_t count = std::min(batch, kSamplesAtOnce);
  const std::int64_t input = in * in_map;
  const std::int64_t columns = in * s.taps() * map;
  // The output's gradient of several samples is copied. The weights' gradient is computed before
  // the input's gradient exists.
  std::int64_t peak = cost.trains ? columns + (count > 1 ? out * map : 0) : 0;
  if (cost.input_gradient) {
    peak = std::max(peak - input, columns + (count < batch ? input / batch * count : 0));
  }
  return peak + kSmallTensors;
}

}  // namespace

at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight,
                    const std::optional<at::Tensor>& bias, const ConvolutionShape& s, bool first) {
  // Autograd has no backward pass for the kernels that a first layer and a signal use.
  const bool own =
      weight.requires_grad() || (bias && bias->requires_grad()) || (s.signal && x.requires_grad());
  if (c10::GradMode::is_enabled() && own) {
    return Convolution::apply(x, weight, bias, s.stride, s.padding, first);
  }
  return run_forward(x, weight, bias, s, first);
}

void add_convolution_cost(CostTape& tape, std::int64_t in, std::int64_t out,
                          const ConvolutionShape& s, bool first, bool trains_weight,
                          bool trains_bias) {
  const std::int64_t batch = tape.batch;
  std::vector<std::int64_t>& shape = tape.shape;
  const std::int64_t in_map = batch * shape[1] * shape[2] * kFloatBytes;
  shape = {out, s.output_rows(shape[1]), s.outputs(shape[2])};
  const std::int64_t positions = batch * shape[1] * shape[2];
  NodeCost cost;
  cost.work = Work::convolution;
  cost.forward_flops = positions * out * (2 * s.taps() * in + (s.bias ? 1 : 0));
  cost.weight_bytes = out * in * s.taps() * kFloatBytes;
  cost.output_bytes = positions * out * kFloatBytes;
  cost.saves_input = true;
  cost.trains = trains_weight;
  cost.runs_backward = trains_bias;
  cost.input_gradient = !first;
  add_scratch(cost, in, out, in_map, positions * kFloatBytes, batch, s);
  if (few_at_once(in, s, first)) {
    const std::int64_t map = std::min(batch, kSamplesAtOnce) * shape[1] * shape[2] * kFloatBytes;
    cost.forward_scratch_bytes = in * s.taps() * map + kSmallTensors;
    if (s.signal)
      cost.backward_scratch_bytes = signal_scratch(cost, in, out, in_map, map, batch, s);
  }
  tape.add(cost);
}

}  // namespace espalier
