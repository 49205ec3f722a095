// Fully connected layers: "layer1" ... "layerN" with ReLU between, and "head".

#include <utility>

#include "espalier/base/error.h"
#include "espalier/config/lists.h"
#include "espalier/model/adapter.h"
#include "espalier/model/layers.h"

namespace espalier {
namespace {

void declare(OptionTable& table) {
  table.add(
      {"model.hidden", OptionType::real_list, "200",
       "mlp: widths of the hidden layers; lstm: units of each layer, one number if they are equal",
       "neurons", 1, 1e9});
}

Model build(const Config& config, const DataShape& shape) {
  const NormChoice norms = norm_choice(config);
  std::int64_t inputs = 1;
  for (const std::int64_t size : shape.sample) inputs *= size;

  Model model;
  model.shape = shape;
  auto layout = new_layout(config);
  int width = layout->add_axis("input", inputs, false);
  int number = 0;
  for (const std::int64_t size : whole_numbers(config, "model.hidden", "width")) {
    const std::string n = std::to_string(++number);
    const int block = layout->add_block("layer" + n);
    const int hidden = layout->add_axis("hidden" + n, size);
    std::vector<Layer> layers{linear(*layout, block, "fc" + n, width, 1, hidden, number == 1)};
    add_norm(layers, norms, *layout, block, "norm" + n, hidden);
    layers.push_back(relu());
    model.blocks.push_back(make_block(*layout, block, std::move(layers)));
    width = hidden;
  }
  add_head(model, *layout, config, {}, "fc" + std::to_string(number + 1), width, 1, number == 0);
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily mlp_family() {
  return {declare, build, Takes::numbers, {{1, 28, 28}, 10}, {}, {"model.hidden"}};
}

}  // namespace espalier
