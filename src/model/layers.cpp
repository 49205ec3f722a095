#include "espalier/model/layers.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/operations.h"
#include "espalier/model/pool.h"

namespace espalier {
namespace {

constexpr double kNormEpsilon = 1e-5;
constexpr std::int64_t kFloatBytes = sizeof(float);
// Covers the vectors (biases, statistics, scalars) that a layer's kernels allocate beside what is
// counted.
constexpr std::int64_t kSmallTensors = 4096;

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

/// PyTorch's default for weights and biases of convolutions and linear layers.
Init default_init(std::int64_t fan_in) {
  return {Init::Rule::uniform, 1 / std::sqrt(static_cast<double>(fan_in))};
}

/// HeteroFL's scaler, spec 1.7. A whole axis is left alone, so width 1 equals no scaler bit for
/// bit.
at::Tensor scaled(at::Tensor y, const Submodel& submodel, int axis, bool cuttable,
                  const Context& context) {
  if (!context.scaler || context.mode != Mode::train || !cuttable) return y;
  const auto kept = static_cast<double>(submodel.width(axis));
  const auto full = static_cast<double>(submodel.full_width(axis));
  if (kept == full) return y;
  return y.div_(kept / full);
}

// With a single input channel LibTorch's own im2col kernel is up to five times as fast forward as
// oneDNN, which pads the channels to a vector; oneDNN stays ahead backward and with more channels.
// Few samples at a time keep the columns in cache, and their memory small.
constexpr std::int64_t kSamplesAtOnce = 4;

bool single_channel(std::int64_t channels, bool first) { return first && channels == 1; }

at::Tensor single_channel_forward(const at::Tensor& x, const at::Tensor& weight,
                                  const at::Tensor& bias, const ConvolutionShape& s) {
  const std::int64_t batch = x.size(0);
  const auto outputs = [&](std::int64_t size) {
    return (size + 2 * s.padding - s.kernel) / s.stride + 1;
  };
  at::Tensor out =
      at::empty({batch, weight.size(0), outputs(x.size(2)), outputs(x.size(3))}, x.options());
  for (std::int64_t i = 0; i < batch; i += kSamplesAtOnce) {
    const std::int64_t count = std::min(kSamplesAtOnce, batch - i);
    at::Tensor part = out.narrow(0, i, count);
    at::_slow_conv2d_forward_out(part, x.narrow(0, i, count), weight, {s.kernel, s.kernel}, bias,
                                 {s.stride, s.stride}, {s.padding, s.padding});
  }
  return out;
}

struct SingleChannelConvolution : torch::autograd::Function<SingleChannelConvolution> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias, std::int64_t stride,
                            std::int64_t padding) {
    context->save_for_backward({x, weight});
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    return single_channel_forward(x, weight, bias, {weight.size(2), stride, padding});
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const std::int64_t stride = context->saved_data["stride"].toInt();
    const std::int64_t padding = context->saved_data["padding"].toInt();
    const at::Tensor& weight = saved[1];
    auto [x, w, b] = at::convolution_backward(
        gradients[0], saved[0], weight, at::IntArrayRef{weight.size(0)}, {stride, stride},
        {padding, padding}, {1, 1}, false, {0, 0}, 1, {false, true, true});
    return {x, w, b, {}, {}};
  }
};

at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                    const ConvolutionShape& s, bool first) {
  if (!single_channel(x.size(1), first) || x.requires_grad()) {
    return at::conv2d(x, weight, bias, {s.stride, s.stride}, {s.padding, s.padding});
  }
  if (c10::GradMode::is_enabled() && weight.requires_grad()) {
    return SingleChannelConvolution::apply(x, weight, bias, s.stride, s.padding);
  }
  return single_channel_forward(x, weight, bias, s);
}

/// Memory that oneDNN takes beside input and output: copies in blocks of 16 (AVX-512) or 8
/// channels. Measured with oneDNN 3 on 1 to 64 channels and maps of 8 to 28: an upper bound
/// throughout, tight where maps are large.
void add_convolution_scratch(NodeCost& cost, std::int64_t in, std::int64_t out, std::int64_t in_map,
                             std::int64_t out_map, std::int64_t kernel) {
  const bool wide = at::get_cpu_capability() == "AVX512";
  const std::int64_t lanes = wide ? 16 : 8;
  const std::int64_t in_blocks = round_up(in, lanes) * in_map;
  const std::int64_t out_blocks = round_up(out, lanes) * out_map;
  const std::int64_t weight_blocks =
      round_up(in, lanes) * round_up(out, lanes) * kernel * kernel * kFloatBytes;
  const std::int64_t weight = in * out * kernel * kernel * kFloatBytes;

  const std::int64_t forward_input = in < lanes ? 0 : in_blocks;
  cost.forward_scratch_bytes = std::max(forward_input + out_blocks + weight_blocks - out * out_map,
                                        out_blocks + weight_blocks) +
                               kSmallTensors;
  // The kernels of the weights' gradient read up to 3 channels without a copy, and up to 8 as one
  // block of 8.
  const bool no_copy = wide ? in <= 3 : in == 3;
  const std::int64_t backward_input = no_copy ? 0 : in <= 8 ? 8 * in_map : in_blocks;
  std::int64_t peak = backward_input + out_blocks + weight_blocks + weight;
  if (cost.input_gradient) {
    const std::int64_t input = in * in_map;
    peak = std::max({in_blocks + out_blocks + weight_blocks - input, in_blocks, peak});
  }
  // Several threads sum the weights' gradient in copies of their own.
  constexpr std::int64_t kBarriers = 20480;
  const std::int64_t threads = at::get_num_threads();
  if (threads > 1) peak += threads * weight_blocks + kBarriers;
  cost.backward_scratch_bytes = peak + kSmallTensors;
}

/// The most groups, at most `groups`, that divide `width`.
std::int64_t groups_for(std::int64_t width, std::int64_t groups) {
  std::int64_t n = std::min(width, groups);
  while (width % n != 0) --n;
  return n;
}

}  // namespace

Layer conv2d(Layout& layout, int block, const std::string& name, int in_axis, int out_axis,
             ConvolutionShape s, bool first) {
  const std::int64_t fan_in = layout.axes[in_axis].size * s.kernel * s.kernel;
  const int weight = layout.add_entry({name + ".weight",
                                       Kind::trainable,
                                       block,
                                       {layout.along(out_axis), layout.along(in_axis),
                                        Layout::constant(s.kernel), Layout::constant(s.kernel)},
                                       default_init(fan_in)});
  const int bias = layout.add_entry(
      {name + ".bias", Kind::trainable, block, {layout.along(out_axis)}, default_init(fan_in)});
  const bool cuttable = layout.axes[out_axis].cuttable;
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    return scaled(convolve(x, p[weight], p[bias], s, first), p.submodel(), out_axis, cuttable,
                  context);
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t in = tape.submodel.width(in_axis);
    const std::int64_t out = tape.submodel.width(out_axis);
    const std::int64_t batch = tape.batch;
    std::vector<std::int64_t>& shape = tape.shape;
    const std::int64_t in_map = batch * shape[1] * shape[2] * kFloatBytes;
    for (int i : {1, 2}) shape[i] = (shape[i] + 2 * s.padding - s.kernel) / s.stride + 1;
    shape[0] = out;
    const std::int64_t positions = batch * shape[1] * shape[2];
    NodeCost cost;
    cost.forward_flops = positions * out * (2 * s.kernel * s.kernel * in + 1);
    cost.output_bytes = positions * out * kFloatBytes;
    cost.saves_input = true;
    cost.input_gradient = !first;
    add_convolution_scratch(cost, in, out, in_map, positions * kFloatBytes, s.kernel);
    if (single_channel(in, first)) {
      cost.forward_scratch_bytes = std::min(batch, kSamplesAtOnce) * s.kernel * s.kernel *
                                       shape[1] * shape[2] * kFloatBytes +
                                   kSmallTensors;
    }
    tape.add(cost);
  };
  return layer;
}

Layer linear(Layout& layout, int block, const std::string& name, int in_axis,
             std::int64_t positions, int out_axis, bool first) {
  const std::int64_t fan_in = layout.axes[in_axis].size * positions;
  const int weight = layout.add_entry({name + ".weight",
                                       Kind::trainable,
                                       block,
                                       {layout.along(out_axis), layout.along(in_axis, positions)},
                                       default_init(fan_in)});
  const int bias = layout.add_entry(
      {name + ".bias", Kind::trainable, block, {layout.along(out_axis)}, default_init(fan_in)});
  const bool cuttable = layout.axes[out_axis].cuttable;
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    const at::Tensor flat = x.dim() > 2 ? x.flatten(1) : x;
    return scaled(linear_product(flat, p[weight], p[bias]), p.submodel(), out_axis, cuttable,
                  context);
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t in = tape.submodel.width(in_axis) * positions;
    const std::int64_t out = tape.submodel.width(out_axis);
    const std::int64_t batch = tape.batch;
    ESPALIER_CHECK(tape.elements() == batch * in, "{} gets {} values a sample, expects {}", name,
                   tape.elements() / batch, in);
    tape.shape = {out};
    NodeCost cost;
    cost.forward_flops = batch * out * (2 * in + 1);
    cost.output_bytes = batch * out * kFloatBytes;
    cost.saves_input = true;
    cost.input_gradient = !first;
    cost.backward_scratch_bytes = out * kFloatBytes;  // the bias's gradient
    tape.add(cost);
  };
  return layer;
}

NormChoice norm_choice(const Config& config) {
  const std::string name = config.text("model.norm");
  NormChoice choice;
  if (name == "batch") choice.kind = NormKind::batch;
  if (name == "group") choice.kind = NormKind::group;
  if (name == "layer") choice.kind = NormKind::layer;
  if (choice.kind == NormKind::group) choice.groups = config.integer("model.groups");
  return choice;
}

Layer norm(NormChoice choice, Layout& layout, int block, const std::string& name, int axis) {
  ESPALIER_CHECK(choice.kind != NormKind::none);
  const auto entry = [&](const char* suffix, Kind kind, Init::Rule rule) {
    return layout.add_entry({name + suffix, kind, block, {layout.along(axis)}, {rule, 0}});
  };
  const int weight = entry(".weight", Kind::trainable, Init::Rule::ones);
  const int bias = entry(".bias", Kind::trainable, Init::Rule::zeros);
  const bool batch_norm = choice.kind == NormKind::batch;
  const int mean = batch_norm ? entry(".running_mean", Kind::statistic, Init::Rule::zeros) : -1;
  const int variance = batch_norm ? entry(".running_var", Kind::statistic, Init::Rule::ones) : -1;
  const std::int64_t most_groups = choice.kind == NormKind::group ? choice.groups : 1;

  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    if (!batch_norm) {
      return at::group_norm(x, groups_for(x.size(1), most_groups), p[weight], p[bias], kNormEpsilon,
                            /*cudnn_enabled=*/false);
    }
    const bool evaluate = context.mode == Mode::evaluate;
    if (context.mode == Mode::calibrate) {
      ESPALIER_CHECK(context.statistics, "calibration needs a place for the statistics");
      const std::int64_t values = x.numel() / x.size(1);
      std::vector<std::int64_t> others{0};
      for (std::int64_t i = 2; i < x.dim(); ++i) others.push_back(i);
      // One value has no unbiased variance.
      auto [batch_variance, batch_mean] = at::var_mean(x, others, /*unbiased=*/values > 1);
      (*context.statistics)[mean] = batch_mean;
      (*context.statistics)[variance] = batch_variance;
    }
    return at::batch_norm(x, p[weight], p[bias], evaluate ? p[mean] : at::Tensor(),
                          evaluate ? p[variance] : at::Tensor(), !evaluate, /*momentum=*/0,
                          kNormEpsilon,
                          /*cudnn_enabled=*/false);
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t channels = tape.submodel.width(axis);
    const std::int64_t batch = tape.batch;
    NodeCost cost;
    cost.forward_flops = tape.elements();
    cost.output_bytes = tape.elements() * kFloatBytes;
    cost.saves_input = true;
    // Mean and inverse deviation per channel or group; double sums and gradients of weight and
    // bias.
    const std::int64_t groups = batch_norm ? channels : batch * groups_for(channels, most_groups);
    cost.saved_bytes = 2 * groups * kFloatBytes;
    const std::int64_t sums = batch_norm ? 6 * channels : 2 * batch * channels + 2 * channels;
    cost.forward_scratch_bytes = sums * kFloatBytes + kSmallTensors;
    // Batch norm's backward kernel also makes one tensor of the input's size.
    cost.backward_scratch_bytes =
        sums * kFloatBytes + (batch_norm ? cost.output_bytes : 0) + kSmallTensors;
    tape.add(cost);
  };
  return layer;
}

void add_norm(std::vector<Layer>& layers, NormChoice choice, Layout& layout, int block,
              const std::string& name, int axis) {
  if (choice.kind != NormKind::none) layers.push_back(norm(choice, layout, block, name, axis));
}

Layer relu() {
  Layer layer;
  layer.forward = [](const Parameters&, const at::Tensor& x, Context&) {
    at::Tensor y = x;
    return at::relu_(y);
  };
  layer.cost = [](CostTape& tape) {
    NodeCost cost;
    cost.forward_flops = tape.elements();
    cost.output_bytes = tape.elements() * kFloatBytes;
    cost.in_place = true;
    cost.saves_output = true;
    tape.add(cost);
  };
  return layer;
}

Layer relu_pool() {
  Layer layer;
  layer.forward = [](const Parameters&, const at::Tensor& x, Context&) {
    return relu_max_pool2(x);
  };
  layer.cost = [](CostTape& tape) {
    NodeCost cost;
    cost.forward_flops = tape.elements();
    for (int i : {1, 2}) tape.shape[i] /= 2;
    cost.output_bytes = tape.elements() * kFloatBytes;
    cost.saved_bytes = tape.elements();
    tape.add(cost);
  };
  return layer;
}

Block make_block(const Layout& layout, int block, std::vector<Layer> layers) {
  Block result;
  result.name = layout.blocks[block];
  result.forward = [layers](const Parameters& p, const at::Tensor& x, Context& context) {
    at::Tensor y = x;
    for (const Layer& layer : layers) y = layer.forward(p, y, context);
    return y;
  };
  result.cost = [layers](CostTape& tape) {
    for (const Layer& layer : layers) layer.cost(tape);
  };
  return result;
}

std::vector<std::int64_t> whole_numbers(const Config& config, const std::string& key) {
  std::vector<std::int64_t> sizes;
  for (const double value : config.reals(key)) {
    if (value < 1 || value != std::floor(value)) {
      throw InputError(fmt::format("{}: {} is no width; write whole numbers above 0", key, value));
    }
    sizes.push_back(static_cast<std::int64_t>(value));
  }
  return sizes;
}

}  // namespace espalier
