// Convolutions, each with ReLU and 2x2 pooling, then one hidden linear layer: the network that many
// federated papers train (McMahan et al. 2017: 5x5, 32 and 64 channels, 512 neurons; 1,663,370
// parameters on MNIST).

#include <utility>

#include "espalier/base/error.h"
#include "espalier/config/lists.h"
#include "espalier/model/adapter.h"
#include "espalier/model/layers.h"

namespace espalier {
namespace {

void declare(OptionTable& table) {
  table.add({"model.channels", OptionType::real_list, "32,64",
             "cnn, cnn1d: channels of the convolutions", "channels", 1, 1e6});
  table.add(
      {"model.kernel", OptionType::integer, "5",
       "cnn: side of the convolution kernels, odd; cnn1d: length of the kernels after the first "
       "convolution",
       "", 1, 31});
  table.add({"model.features", OptionType::integer, "512", "cnn: width of the hidden linear layer",
             "neurons", 1, 1e9});
}

Model build(const Config& config, const DataShape& shape) {
  const NormChoice norms = norm_choice(config);
  const std::int64_t kernel = config.integer("model.kernel");
  if (kernel % 2 == 0) {
    throw InputError(
        formatted("model.kernel = {} is even: write an odd number, e.g. {}", kernel, kernel + 1));
  }
  Model model;
  model.shape = shape;
  auto layout = new_layout(config);
  // With further classifiers the depth can be cut: after the second convolution, the third, ...,
  // and the hidden layer.
  const std::vector<std::int64_t> stages = whole_numbers(config, "model.channels", "width");
  const std::int64_t exits = config.integer("model.exits");
  const auto depth = std::ssize(stages);
  if (exits > depth) {
    throw InputError(
        formatted("model.exits = {} is more than the {} of model.channels", exits, depth));
  }
  if (exits > 1) model.class_axis = layout->add_axis("classes", shape.classes, false);
  int width = layout->add_axis("input", shape.sample[0], false);
  std::int64_t height = shape.sample[1];
  std::int64_t columns = shape.sample[2];
  int number = 0;
  for (const std::int64_t channels : stages) {
    const std::string n = std::to_string(++number);
    if (height < 2 || columns < 2) {
      throw InputError(
          formatted("model.channels has too many entries for {}x{} images: each halves the "
                    "image; give at most {}",
                    shape.sample[1], shape.sample[2], number - 1));
    }
    const int block = layout->add_block(number == 1 ? "stem" : "conv" + n);
    const int out = layout->add_axis("conv" + n, channels);
    std::vector<Layer> layers{
        convolution(*layout, block, "conv" + n, width, out, {kernel, 1, kernel / 2}, number == 1)};
    add_norm(layers, norms, *layout, block, "norm" + n, out);
    layers.push_back(relu_pool());
    layers.push_back(gate(out));
    model.masked.push_back({out, block});
    model.blocks.push_back(make_block(*layout, block, std::move(layers)));
    if (number > 1) end_stage(model, *layout, block, out, depth, exits);
    width = out;
    height /= 2;
    columns /= 2;
  }
  int block = layout->add_block("hidden");
  const int features = layout->add_axis("features", config.integer("model.features"));
  std::vector<Layer> hidden{
      linear(*layout, block, "fc1", width, height * columns, features, number == 0)};
  add_norm(hidden, norms, *layout, block, "norm" + std::to_string(number + 1), features);
  hidden.push_back(relu());
  hidden.push_back(gate(features));
  model.masked.push_back({features, block});
  model.blocks.push_back(make_block(*layout, block, std::move(hidden)));
  end_stage(model, *layout, block, features, depth, exits);
  block = add_head(model, *layout, config, {}, "fc2", features);
  if (exits > 1) model.exits.push_back({block, static_cast<int>(depth)});
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily cnn_family() {
  ModelFamily family{declare, build, Takes::images, {{1, 28, 28}, 10}};
  family.widths = {"model.channels", "model.features"};
  return family;
}

}  // namespace espalier
