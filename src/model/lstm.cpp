// Recurrent language model: token embedding, LSTM layers, one linear layer. It predicts the next
// token after each one, or one class after the last, as the data asks. LEAF's model of Shakespeare
// (Caldas et al. 2018) is an embedding of 8 and two layers of 256 units. Names as in a PyTorch
// module with members embedding, lstm and fc.

#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/config/lists.h"
#include "espalier/model/adapter.h"
#include "espalier/model/layers.h"
#include "espalier/model/operations.h"
#include "espalier/model/recurrence.h"
#include "espalier/model/transformer.h"

namespace espalier {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);

void declare(OptionTable& table) {
  table.add({"model.layers", OptionType::integer, "2", "lstm: LSTM layers", "", 1, 1e4});
}

/// The units of each layer.
std::vector<std::int64_t> widths_of(const Config& config) {
  const std::int64_t layers = config.integer("model.layers");
  std::vector<std::int64_t> widths = whole_numbers(config, "model.hidden", "width");
  if (widths.size() == 1) widths.resize(static_cast<std::size_t>(layers), widths[0]);
  if (std::ssize(widths) == layers) return widths;
  throw InputError(
      formatted("model.hidden has {} widths for model.layers = {}: give one for all layers, or one "
                "for each",
                widths.size(), layers));
}

Init uniform(std::int64_t fan_in) {
  return {Init::Rule::uniform, 1 / std::sqrt(static_cast<double>(fan_in))};
}

/// `embedding`.weight [vocabulary, embed].
Layer embedding(Layout& layout, int block, int vocabulary_axis, int embed_axis) {
  const int weight = layout.add_entry({"embedding.weight",
                                       Kind::trainable,
                                       block,
                                       {layout.along(vocabulary_axis), layout.along(embed_axis)},
                                       {Init::Rule::normal, 1},
                                       /*product=*/true});
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context&) {
    return embed_tokens(x, p.weight(weight));
  };
  layer.cost = [=](CostTape& tape) {
    tape.shape.push_back(tape.submodel.width(embed_axis));
    NodeCost node;
    node.output_bytes = tape.elements() * kFloatBytes;
    node.weight_bytes = node.output_bytes;  // the rows that are looked up
    node.trains = tape.trains(weight);
    node.saves_input = true;
    node.input_gradient = false;
    tape.add(node);
  };
  return layer;
}

/// The `number`-th layer, from 0. Its units are cut with the rows of all four gates. HeteroFL's
/// scaler divides the units' outputs where they are read, which costs neither time nor memory.
Layer lstm_layer(Layout& layout, int block, int number, int in_axis, int unit_axis) {
  const Dimension gates{{-1, 4}, {unit_axis, 1}};
  const Init init = uniform(layout.axes[static_cast<std::size_t>(unit_axis)].size);
  const auto entry = [&](const char* name, std::vector<Dimension> dimensions, bool product) {
    return layout.add_entry({formatted("lstm.{}_l{}", name, number), Kind::trainable, block,
                             std::move(dimensions), init, product});
  };
  const int input = entry("weight_ih", {gates, layout.along(in_axis)}, true);
  const int hidden = entry("weight_hh", {gates, layout.along(unit_axis)}, true);
  const int input_bias = entry("bias_ih", {gates}, false);
  const int hidden_bias = entry("bias_hh", {gates}, false);
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    return lstm(x, {p.weight(input), p.weight(hidden), p[input_bias], p[hidden_bias]},
                stream_scaler(p.submodel(), in_axis, context),
                stream_scaler(p.submodel(), unit_axis, context));
  };
  layer.cost = [=](CostTape& tape) {
    const bool trains = tape.trains(input) || tape.trains(hidden) || tape.trains(input_bias) ||
                        tape.trains(hidden_bias);
    add_lstm_cost(tape, tape.submodel.width(unit_axis), trains);
  };
  return layer;
}

Layer last_step() {
  Layer layer;
  // Copied, so that the memory of the other steps is free for later operations.
  layer.forward = [](const Parameters&, const at::Tensor& x, Context&) {
    return x.select(1, -1).contiguous();
  };
  layer.cost = [](CostTape& tape) {
    tape.shape.erase(tape.shape.begin());
    NodeCost node;
    node.output_bytes = tape.elements() * kFloatBytes;
    tape.add(node);
  };
  return layer;
}

/// `name`.weight [classes, units] and `name`.bias [classes].
Layer classifier(Layout& layout, int block, const std::string& name, int unit_axis,
                 int class_axis) {
  const Init init = uniform(layout.axes[static_cast<std::size_t>(unit_axis)].size);
  const int weight = layout.add_entry({name + ".weight",
                                       Kind::trainable,
                                       block,
                                       {layout.along(class_axis), layout.along(unit_axis)},
                                       init,
                                       /*product=*/true});
  const int bias =
      layout.add_entry({name + ".bias", Kind::trainable, block, {layout.along(class_axis)}, init});
  const auto adapter =
      add_adapter(layout, block, name, weight, layout.along(class_axis), layout.along(unit_axis));
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    const double factor = stream_scaler(p.submodel(), unit_axis, context);
    // The factor is of the units, and linear_product() multiplies the bias by it too.
    const at::Tensor scaled = factor == 1 ? p[bias] : p[bias] / factor;
    return adapted(linear_product(x, p.weight(weight), scaled, factor), x, p, adapter, factor);
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t inputs = tape.submodel.width(unit_axis);
    const std::int64_t outputs = tape.submodel.width(class_axis);
    const int input = tape.current;
    tape.shape.back() = outputs;
    NodeCost node;
    node.work = Work::product;
    node.forward_flops = tape.elements() * (2 * inputs + 1);
    node.weight_bytes = outputs * inputs * kFloatBytes;
    node.output_bytes = tape.elements() * kFloatBytes;
    node.trains = tape.trains(weight);
    node.runs_backward = tape.trains(bias);
    node.saves_input = node.trains;
    node.backward_scratch_bytes = outputs * kFloatBytes;
    tape.add(node);
    add_adapter_cost(tape, adapter, input, tape.elements() / outputs, inputs, outputs);
  };
  return layer;
}

Model build(const Config& config, const DataShape& shape) {
  const std::vector<std::int64_t> widths = widths_of(config);
  const std::int64_t depth = std::ssize(widths);
  const std::int64_t exits = config.integer("model.exits");
  if (exits > depth) {
    throw InputError(formatted("model.exits = {} is more than model.layers = {}", exits, depth));
  }
  Model model;
  auto layout = new_layout(config);
  const int tokens = layout->add_axis("vocabulary", shape.vocabulary, false);
  model.class_axis = layout->add_axis("classes", shape.classes, false);
  int width = layout->add_axis("embed", config.integer("model.embed"));
  const auto classify = [&](const std::string& name, const std::string& prefix) {
    const int block = layout->add_block(name);
    std::vector<Layer> layers;
    if (!shape.next_token) layers.push_back(last_step());
    layers.push_back(classifier(*layout, block, prefix + "fc", width, model.class_axis));
    model.blocks.push_back(make_block(*layout, block, std::move(layers)));
    if (exits > 1) model.exits.push_back({block, static_cast<int>(model.depth.size())});
  };

  const int stem = layout->add_block("stem");
  model.blocks.push_back(make_block(*layout, stem, {embedding(*layout, stem, tokens, width)}));
  for (std::int64_t i = 0; i < depth; ++i) {
    const std::string name = formatted("lstm.{}", i);
    const int block = layout->add_block(name);
    const int units = layout->add_axis(name, widths[static_cast<std::size_t>(i)]);
    model.blocks.push_back(make_block(
        *layout, block, {lstm_layer(*layout, block, static_cast<int>(i), width, units)}));
    width = units;
    // Without further classifiers nothing but the next layer can read a layer's units.
    if (exits == 1) continue;
    model.depth.push_back(block);
    if (const auto exit = exit_due(model, depth, exits)) classify(*exit, *exit + ".");
  }
  classify("head", "");
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily lstm_family() {
  ModelFamily family{declare, build, Takes::tokens, {{80}, 256, 256, true}};
  family.defaults = {{"model.embed", "8"}, {"model.hidden", "256"}};
  family.widths = {"model.embed", "model.hidden"};
  return family;
}

}  // namespace espalier
