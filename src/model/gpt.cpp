// Language model that predicts each next token (Radford et al. 2019): token and position
// embeddings, pre-norm blocks with causal attention, final norm, tied head. GPT-2 small has
// 124,439,808 parameters. Names as in its published files; their layers c_attn, c_proj and c_fc are
// stored as [in, out], here as [out, in], so a reader of such a file transposes these.

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/adapter.h"
#include "espalier/model/operations.h"
#include "espalier/model/row_operations.h"
#include "espalier/model/transformer.h"

namespace espalier {
namespace {

void declare(OptionTable& table) {
  table.add({"model.tied", OptionType::boolean, "true",
             "gpt: use the weights of the token embedding in the head"});
}

/// The head with the embedding's weights.
Layer tied_head(int weight, int vocabulary_axis, int embed_axis) {
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    if (context.cache) return product_by_row(x, p[weight], at::Tensor());
    return linear_product(x, p.weight(weight), at::Tensor());
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t inputs = tape.submodel.width(embed_axis);
    tape.shape.back() = tape.submodel.width(vocabulary_axis);
    NodeCost node;
    node.work = Work::product;
    node.forward_flops = tape.elements() * 2 * inputs;
    node.weight_bytes = tape.shape.back() * inputs * static_cast<std::int64_t>(sizeof(float));
    node.output_bytes = tape.elements() * static_cast<std::int64_t>(sizeof(float));
    node.trains = tape.trains(weight);
    node.saves_input = node.trains;
    tape.add(node);
  };
  return layer;
}

Model build(const Config& config, const DataShape& shape) {
  const bool tied = config.boolean("model.tied");
  TransformerChoice choice = transformer_choice(config, kGptEpsilon);
  choice.positions = shape.sample[0];
  choice.causal = true;
  choice.tanh_gelu = true;
  choice.output_deviation = 0.02 / std::sqrt(2.0 * static_cast<double>(choice.depth));
  read_positions(choice, config);

  Model model;
  auto layout = new_layout(config);
  const std::int64_t vocabulary =
      tied ? std::max(shape.vocabulary, shape.classes) : shape.vocabulary;
  const int tokens = layout->add_axis("vocabulary", vocabulary, false);
  const int embed = layout->add_axis("embed", choice.embed);
  const int stem = layout->add_block("stem");
  int embedding = -1;
  model.blocks.push_back(make_block(
      *layout, stem,
      {token_stem(choice, *layout, stem, "wte", "wpe.weight", tokens, embed, &embedding)}));
  add_transformer_blocks(
      model, *layout, choice,
      {"h", "ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"}, embed);
  const int head = layout->add_block("head");
  model.class_axis = tied ? tokens : layout->add_axis("classes", shape.classes, false);
  std::vector<Layer> layers{stream_norm(choice, *layout, head, "ln_f", embed)};
  layers.push_back(tied ? tied_head(embedding, tokens, embed)
                        : dense(*layout, head, "lm_head", layout->along(model.class_axis),
                                layout->along(embed), /*bias=*/false));
  model.blocks.push_back(make_block(*layout, head, std::move(layers)));
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily gpt_family() { return {declare, build, Takes::next_token, {{64}, 256, 256, true}}; }

}  // namespace espalier
