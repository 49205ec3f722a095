// Vision transformer (Dosovitskiy et al. 2021): patches, an extra class token, learned positions,
// pre-norm blocks. Names and sizes as in timm: ViT-B/16 has 86,567,656 parameters at 224 pixels and
// 1000 classes.

#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/adapter.h"
#include "espalier/model/operations.h"
#include "espalier/model/transformer.h"

namespace espalier {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);

void declare(OptionTable& table) {
  table.add({"model.patch", OptionType::integer, "4",
             "vit: side of the square patches, which must divide the image", "pixels", 1, 1e4});
}

struct Grid {
  std::int64_t channels;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t patch;
  std::int64_t patches() const { return rows * columns; }
  std::int64_t values() const { return channels * patch * patch; }
};

Grid patch_grid(const Config& config, const DataShape& shape) {
  const std::int64_t patch = config.integer("model.patch");
  if (shape.sample[1] % patch != 0 || shape.sample[2] % patch != 0) {
    throw InputError(
        formatted("model.patch = {} does not divide images of {}x{}; write one that does", patch,
                  shape.sample[1], shape.sample[2]));
  }
  return {shape.sample[0], shape.sample[1] / patch, shape.sample[2] / patch, patch};
}

/// [batch, patches, channels x patch x patch]: a convolution whose stride is its kernel is a
/// product with these rows.
at::Tensor patches_of(const at::Tensor& x, const Grid& grid) {
  return x.reshape({x.size(0), grid.channels, grid.rows, grid.patch, grid.columns, grid.patch})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({x.size(0), grid.patches(), grid.values()});
}

Layer patch_stem(const TransformerChoice& choice, const Grid& grid, bool class_token,
                 Layout& layout, int block, int input_axis, int embed_axis) {
  const Dimension stream = layout.along(embed_axis);
  const Dimension one = Layout::constant(1);
  const Dimension side = Layout::constant(grid.patch);
  const Init normal{Init::Rule::normal, 0.02};
  const int cls =
      class_token
          ? layout.add_entry({"cls_token", Kind::trainable, block, {one, one, stream}, normal})
          : -1;
  const int place = layout.add_entry({"pos_embed",
                                      Kind::trainable,
                                      block,
                                      {one, Layout::constant(choice.positions), stream},
                                      normal});
  const double bound = 1 / std::sqrt(static_cast<double>(grid.values()));
  const int weight = layout.add_entry({"patch_embed.proj.weight",
                                       Kind::trainable,
                                       block,
                                       {stream, layout.along(input_axis), side, side},
                                       {Init::Rule::uniform, bound},
                                       /*product=*/true});
  const int bias = layout.add_entry(
      {"patch_embed.proj.bias", Kind::trainable, block, {stream}, {Init::Rule::uniform, bound}});
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    const double factor = stream_scaler(p.submodel(), embed_axis, context);
    const auto scaled = [&](int entry) { return factor == 1 ? p[entry] : p[entry] * factor; };
    at::Tensor y = linear_product(patches_of(x, grid), p.weight(weight), p[bias], factor);
    if (cls >= 0) y = at::cat({scaled(cls).expand({y.size(0), 1, y.size(2)}), y}, 1);
    return y.add_(scaled(place));
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t units = tape.submodel.width(embed_axis);
    const auto add = [&](std::int64_t positions, std::int64_t width, std::int64_t flops,
                         auto&& change) {
      tape.shape = {positions, width};
      NodeCost node;
      node.forward_flops = tape.elements() * flops;
      node.output_bytes = tape.elements() * kFloatBytes;
      change(node);
      tape.add(node);
    };
    add(grid.patches(), grid.values(), 0, [](NodeCost& node) { node.input_gradient = false; });
    add(grid.patches(), units, 2 * grid.values() + 1, [&](NodeCost& node) {
      node.work = Work::product;
      node.weight_bytes = grid.values() * units * kFloatBytes;
      node.trains = tape.trains(weight);
      node.runs_backward = tape.trains(bias);
      node.saves_input = node.trains;
      node.input_gradient = false;
      node.backward_scratch_bytes = units * kFloatBytes;
    });
    add(choice.positions, units, 1, [&](NodeCost& node) {
      node.trains = tape.trains(place) || tape.trains(cls);
      node.in_place = cls < 0;
      node.passes_gradient = cls < 0;
      // Gradients of positions and class token.
      node.backward_scratch_bytes = (choice.positions + 1) * units * kFloatBytes;
    });
  };
  return layer;
}

Model build(const Config& config, const DataShape& shape) {
  const Grid grid = patch_grid(config, shape);
  const Pooling pooling = pooling_choice(config);
  const bool class_token = pooling == Pooling::token;
  TransformerChoice choice = transformer_choice(config);
  choice.positions = grid.patches() + (class_token ? 1 : 0);

  Model model;
  auto layout = new_layout(config);
  const int input = layout->add_axis("input", grid.channels, false);
  const int embed = layout->add_axis("embed", choice.embed);
  const int stem = layout->add_block("stem");
  model.blocks.push_back(make_block(
      *layout, stem, {patch_stem(choice, grid, class_token, *layout, stem, input, embed)}));
  model.class_axis = layout->add_axis("classes", shape.classes, false);
  add_classifying_transformer(model, *layout, config, choice, pooling, embed);
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily vit_family() { return {declare, build, Takes::images}; }

}  // namespace espalier
