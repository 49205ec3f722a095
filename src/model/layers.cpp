#include "espalier/model/layers.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/adapter.h"
#include "espalier/model/operations.h"
#include "espalier/model/pool.h"

namespace espalier {
namespace {

constexpr double kNormEpsilon = 1e-5;
constexpr std::int64_t kFloatBytes = sizeof(float);

/// PyTorch's default for weights and biases of convolutions and linear layers.
Init default_init(std::int64_t fan_in) {
  return {Init::Rule::uniform, 1 / std::sqrt(static_cast<double>(fan_in))};
}

/// HeteroFL's scaler (Diao et al. 2021; docs/methods/heterofl.md). A whole axis is not scaled, so
/// width 1 equals no scaler bit for bit.
at::Tensor scaled(at::Tensor y, const Submodel& submodel, int axis, bool cuttable,
                  const Context& context) {
  if (!context.scaler || context.mode != Mode::train || !cuttable) return y;
  const auto kept = static_cast<double>(submodel.width(axis));
  const auto full = static_cast<double>(submodel.full_width(axis));
  if (kept == full) return y;
  return y.div_(kept / full);
}

/// The most groups, at most `groups`, that divide `width`.
std::int64_t groups_for(std::int64_t width, std::int64_t groups) {
  std::int64_t n = std::min(width, groups);
  while (width % n != 0) --n;
  return n;
}

/// As add_cost(), for what was added from node `first` on and read `input`.
void hold_input(CostTape& tape, int input, std::size_t first) {
  if (input < 0) return;  // the batch is always held
  std::size_t last = first;
  for (std::size_t i = first; i < tape.nodes.size(); ++i) {
    const NodeCost& node = tape.nodes[i];
    const auto reads = std::ranges::find(node.inputs, input) != node.inputs.end();
    if (!reads) continue;
    if (node.in_place || (node.runs_backward && node.saves_input)) return;  // held by the tape
    last = i;
  }
  const std::int64_t bytes = tape.nodes[static_cast<std::size_t>(input)].output_bytes;
  for (std::size_t i = last + 1; i < tape.nodes.size(); ++i) {
    tape.nodes[i].forward_scratch_bytes += bytes;
  }
}

}  // namespace

void add_cost(CostTape& tape, const Layer& layer) {
  const int input = tape.current;
  const std::size_t first = tape.nodes.size();
  layer.cost(tape);
  hold_input(tape, input, first);
}

Layer convolution(Layout& layout, int block, const std::string& name, int in_axis, int out_axis,
                  ConvolutionShape s, bool first) {
  const std::int64_t taps = s.taps();
  const std::int64_t fan_in = layout.axes[in_axis].size * taps;
  const std::int64_t fan_out = layout.axes[out_axis].size * taps;
  const Init he{Init::Rule::normal, std::sqrt(2 / static_cast<double>(fan_out))};
  std::vector<Dimension> dimensions{layout.along(out_axis), layout.along(in_axis)};
  dimensions.resize(s.signal ? 3 : 4, Layout::constant(s.kernel));
  const int weight = layout.add_entry({name + ".weight", Kind::trainable, block, dimensions,
                                       s.he_normal ? he : default_init(fan_in)});
  const int bias = s.bias ? layout.add_entry({name + ".bias",
                                              Kind::trainable,
                                              block,
                                              {layout.along(out_axis)},
                                              s.he_normal ? Init{} : default_init(fan_in)})
                          : -1;
  const bool cuttable = layout.axes[out_axis].cuttable;
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    return scaled(
        convolve(x, p[weight], bias < 0 ? std::nullopt : std::optional(p[bias]), s, first),
        p.submodel(), out_axis, cuttable, context);
  };
  layer.cost = [=](CostTape& tape) {
    add_convolution_cost(tape, tape.submodel.width(in_axis), tape.submodel.width(out_axis), s,
                         first, tape.trains(weight), tape.trains(bias));
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
                                       default_init(fan_in),
                                       /*product=*/true});
  const int bias = layout.add_entry(
      {name + ".bias", Kind::trainable, block, {layout.along(out_axis)}, default_init(fan_in)});
  const bool cuttable = layout.axes[out_axis].cuttable;
  const auto adapter = add_adapter(layout, block, name, weight, layout.along(out_axis),
                                   layout.along(in_axis, positions));
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    const at::Tensor flat = x.dim() > 2 ? x.flatten(1) : x;
    return scaled(adapted(linear_product(flat, p.weight(weight), p[bias]), flat, p, adapter),
                  p.submodel(), out_axis, cuttable, context);
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t in = tape.submodel.width(in_axis) * positions;
    const std::int64_t out = tape.submodel.width(out_axis);
    const std::int64_t batch = tape.batch;
    ESPALIER_CHECK(tape.elements() == batch * in, "{} gets {} values a sample, expects {}", name,
                   tape.elements() / batch, in);
    tape.shape = {out};
    const int input = tape.current;
    NodeCost cost;
    cost.work = Work::product;
    cost.forward_flops = batch * out * (2 * in + 1);
    cost.weight_bytes = out * in * kFloatBytes;
    cost.output_bytes = batch * out * kFloatBytes;
    cost.trains = tape.trains(weight);
    cost.runs_backward = tape.trains(bias);
    cost.saves_input = cost.trains;
    cost.input_gradient = !first;
    cost.backward_scratch_bytes = out * kFloatBytes;  // the bias's gradient
    tape.add(cost);
    add_adapter_cost(tape, adapter, input, batch, in, out);
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
      ESPALIER_CHECK(context.statistics, "calibration needs Context::statistics");
      const std::int64_t values = x.numel() / x.size(1);
      std::vector<std::int64_t> others{0};
      for (std::int64_t i = 2; i < x.dim(); ++i) others.push_back(i);
      // The unbiased variance of one value is not defined.
      auto [batch_variance, batch_mean] = at::var_mean(x, others, /*unbiased=*/values > 1);
      (*context.statistics)[mean] = batch_mean;
      (*context.statistics)[variance] = batch_variance;
      if (context.statistic_values) {
        (*context.statistic_values)[mean] = (*context.statistic_values)[variance] = values;
      }
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
    cost.trains = tape.trains(weight) || tape.trains(bias);
    cost.forward_flops = tape.elements();
    cost.output_bytes = tape.elements() * kFloatBytes;
    cost.saves_input = true;
    // Mean and inverse deviation per channel or group; double sums and gradients of weight and
    // bias.
    const std::int64_t groups = batch_norm ? channels : batch * groups_for(channels, most_groups);
    cost.saved_bytes = 2 * groups * kFloatBytes;
    const std::int64_t sums = batch_norm ? 6 * channels : 2 * batch * channels + 2 * channels;
    cost.forward_scratch_bytes = sums * kFloatBytes + kSmallTensors;
    // Batch norm's backward kernel also allocates one tensor of the input's size.
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

Layer signal_as_image() {
  Layer layer;
  layer.forward = [](const Parameters&, const at::Tensor& x, Context&) { return x.unsqueeze(2); };
  layer.cost = [](CostTape& tape) { tape.shape.insert(tape.shape.begin() + 1, 1); };
  return layer;
}

Layer max_pool(ConvolutionShape window) {
  Layer layer;
  layer.forward = [=](const Parameters&, const at::Tensor& x, Context&) {
    return at::max_pool2d(x, window.kernels(), window.strides(), window.paddings());
  };
  layer.cost = [=](CostTape& tape) {
    tape.shape = {tape.shape[0], window.output_rows(tape.shape[1]), window.outputs(tape.shape[2])};
    NodeCost cost;
    cost.forward_flops = tape.elements() * window.taps();
    cost.output_bytes = tape.elements() * kFloatBytes;
    cost.saves_input = true;
    cost.saved_bytes = tape.elements() * static_cast<std::int64_t>(sizeof(std::int64_t));
    tape.add(cost);
  };
  return layer;
}

Layer global_pool() {
  Layer layer;
  layer.forward = [](const Parameters&, const at::Tensor& x, Context&) { return x.mean({2, 3}); };
  layer.cost = [](CostTape& tape) {
    NodeCost cost;
    cost.forward_flops = tape.elements();
    tape.shape = {tape.shape[0]};
    cost.output_bytes = tape.elements() * kFloatBytes;
    tape.add(cost);
  };
  return layer;
}

namespace {

at::Tensor run(const std::vector<Layer>& layers, const Parameters& p, const at::Tensor& x,
               Context& context) {
  at::Tensor y = x;
  for (const Layer& layer : layers) y = layer.forward(p, y, context);
  return y;
}

}  // namespace

Layer residual(std::vector<Layer> body, std::vector<Layer> shortcut) {
  Layer layer;
  layer.forward = [body, shortcut](const Parameters& p, const at::Tensor& x, Context& context) {
    at::Tensor y = run(body, p, x, context);
    return y.add_(run(shortcut, p, x, context));
  };
  layer.cost = [body, shortcut](CostTape& tape) {
    const int input = tape.current;
    const std::vector<std::int64_t> shape = tape.shape;
    for (const Layer& part : body) add_cost(tape, part);
    const int sum = tape.current;
    tape.current = input;
    tape.shape = shape;
    for (const Layer& part : shortcut) add_cost(tape, part);
    NodeCost cost;
    cost.forward_flops = tape.elements();
    cost.output_bytes = tape.elements() * kFloatBytes;
    cost.inputs = {sum, tape.current};
    cost.in_place = true;
    cost.passes_gradient = true;
    tape.add(cost);
  };
  return layer;
}

namespace {

/// The factor of `out` that has gates, or none.
template <class HasGate>
const Factor* gated_factor(const Dimension& out, const HasGate& has_gate) {
  const auto found = std::ranges::find_if(
      out, [&](const Factor& factor) { return factor.axis >= 0 && has_gate(factor.axis); });
  return found == out.end() ? nullptr : &*found;
}

}  // namespace

at::Tensor gated(const at::Tensor& y, const Dimension& out, std::int64_t along,
                 const Context& context) {
  if (context.gates == nullptr) return y;
  const Factor* factor = gated_factor(
      out, [&](int axis) { return (*context.gates)[static_cast<std::size_t>(axis)].defined(); });
  if (factor == nullptr) return y;
  const at::Tensor& gates = (*context.gates)[static_cast<std::size_t>(factor->axis)];
  const std::int64_t dimension = along < 0 ? along + y.dim() : along;
  // [..., along, ...] as [..., outer factors, units, the rest]
  std::vector<std::int64_t> shape(y.sizes().begin(), y.sizes().begin() + dimension);
  std::vector<std::int64_t> units{gates.size(0), 1};
  const bool outermost = factor == &out.front();
  if (!outermost) {
    ESPALIER_CHECK(factor == &out[1] && out.front().axis < 0, "gates inside another axis");
    shape.push_back(out.front().size);
  }
  shape.insert(shape.end(), {gates.size(0), -1});
  return (y.reshape(shape) * gates.view(units)).view(y.sizes());
}

void add_gate_cost(CostTape& tape, const Dimension& out) {
  if (tape.stage == nullptr) return;
  const Factor* factor = gated_factor(
      out, [&](int axis) { return tape.stage->gated[static_cast<std::size_t>(axis)]; });
  if (factor == nullptr) return;
  NodeCost node;
  node.runs_backward = true;
  node.forward_flops = tape.elements();
  node.output_bytes = tape.elements() * kFloatBytes;
  node.saves_input = true;
  // The gates' gradient before its sum over all dimensions but the units.
  node.backward_scratch_bytes = node.output_bytes + tape.submodel.width(factor->axis) * kFloatBytes;
  tape.add(node);
}

Layer gate(int axis) {
  Layer layer;
  layer.forward = [=](const Parameters&, const at::Tensor& x, Context& context) {
    return gated(x, {{axis, 1}}, 1, context);
  };
  layer.cost = [=](CostTape& tape) { add_gate_cost(tape, {{axis, 1}}); };
  return layer;
}

Block make_block(const Layout& layout, int block, std::vector<Layer> layers) {
  Block result;
  result.name = layout.blocks[block];
  result.forward = [layers](const Parameters& p, const at::Tensor& x, Context& context) {
    return run(layers, p, x, context);
  };
  result.cost = [layers](CostTape& tape) {
    const int input = tape.current;
    const std::size_t first = tape.nodes.size();
    for (const Layer& layer : layers) add_cost(tape, layer);
    hold_input(tape, input, first);
  };
  return result;
}

int add_head(Model& model, Layout& layout, const Config& config, const LayersOf& before,
             const std::string& name, int features, std::int64_t positions, bool first) {
  const std::int64_t outputs = config.integer("model.projection");
  int block = layout.add_block(outputs > 0 ? "projection" : "head");
  std::vector<Layer> layers;
  if (before) layers = before(block);
  if (outputs > 0) {
    const int hidden = layout.add_axis("projection.hidden", layout.axes[features].size * positions);
    const int projected = layout.add_axis("projection", outputs, /*cuttable=*/false);
    layers.push_back(linear(layout, block, "projection.0", features, positions, hidden, first));
    layers.push_back(relu());
    layers.push_back(linear(layout, block, "projection.2", hidden, 1, projected));
    model.blocks.push_back(make_block(layout, block, std::move(layers)));
    model.projection = block;
    layers = {};
    features = projected;
    positions = 1;
    first = false;
    block = layout.add_block("head");
  }
  if (model.class_axis < 0) {
    model.class_axis = layout.add_axis("classes", model.shape.classes, false);
  }
  layers.push_back(linear(layout, block, name, features, positions, model.class_axis, first));
  model.blocks.push_back(make_block(layout, block, std::move(layers)));
  return block;
}

std::optional<std::string> exit_due(const Model& model, std::int64_t depth, std::int64_t exits) {
  const auto nth = std::ssize(model.exits) + 1;
  if (nth >= exits || std::ssize(model.depth) != nth * depth / exits) return std::nullopt;
  return formatted("exits.{}", nth - 1);
}

void end_stage(Model& model, Layout& layout, int block, int out, std::int64_t depth,
               std::int64_t exits) {
  if (exits == 1) return;
  model.depth.push_back(block);
  const auto name = exit_due(model, depth, exits);
  if (!name) return;
  const int exit = layout.add_block(*name);
  model.exits.push_back({exit, static_cast<int>(model.depth.size())});
  model.blocks.push_back(
      make_block(layout, exit,
                 {global_pool(), linear(layout, exit, *name + ".fc", out, 1, model.class_axis)}));
}

void declare_depth(OptionTable& table) {
  table.add({"model.depth", OptionType::integer, "0",
             "layers with weights of vgg (11, 13, 16) and resnet (18, 34, 50), blocks of a "
             "transformer; 0 = 11, 18, or 6 blocks",
             "layers", 0, 1e4});
}

void declare_depth_and_width(OptionTable& table) {
  declare_depth(table);
  table.add({"model.width", OptionType::integer, "64",
             "vgg, resnet: channels of the first layer; the other widths grow with it", "channels",
             1, 1e6});
}

}  // namespace espalier
