// Text classifier: token and position embeddings, pre-norm blocks whose attention sees the whole
// text, mean or first token, class head. The blocks have the names of vit. For texts with hidden
// tokens it is a masked language model, whose head predicts these tokens (Devlin et al. 2019).

#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/adapter.h"
#include "espalier/model/transformer.h"

namespace espalier {
namespace {

void declare(OptionTable&) {}

Model build(const Config& config, const DataShape& shape) {
  TransformerChoice choice = transformer_choice(config);
  choice.positions = shape.sample[0];
  choice.masked = shape.masked;
  choice.mask_token = shape.vocabulary - 1;
  read_positions(choice, config);

  Model model;
  auto layout = new_layout(config);
  const int tokens = layout->add_axis("vocabulary", shape.vocabulary, false);
  const int embed = layout->add_axis("embed", choice.embed);
  const int stem = layout->add_block("stem");
  model.blocks.push_back(make_block(
      *layout, stem, {token_stem(choice, *layout, stem, "tok_embed", "pos_embed", tokens, embed)}));
  model.class_axis = layout->add_axis("classes", shape.classes, false);
  if (choice.masked > 0) {
    add_transformer_blocks(
        model, *layout, choice,
        {"blocks", "norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"}, embed,
        [&](int block, const std::string& prefix) {
          return token_head(choice, *layout, block, prefix, embed, model.class_axis);
        });
  } else {
    add_classifying_transformer(model, *layout, config, choice, pooling_choice(config), embed);
  }
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily encoder_family() { return {declare, build, Takes::texts, {{64}, 4, 10000}}; }

}  // namespace espalier
