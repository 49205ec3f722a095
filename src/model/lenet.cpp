// LeNet-5 in its modern form (ReLU, max-pooling): LeCun et al. 1998 with 6 and 16 channels, 120 and
// 84 neurons; 61,706 parameters for 28x28 images of one channel and 10 classes.

#include <array>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/adapter.h"
#include "espalier/model/layers.h"

namespace espalier {
namespace {

constexpr std::int64_t kKernel = 5;
constexpr std::array<std::int64_t, 2> kChannels{6, 16};
constexpr std::array<std::int64_t, 2> kNeurons{120, 84};

Model build(const Config& config, const DataShape& shape) {
  if (shape.sample[1] < 12 || shape.sample[2] < 12) {
    throw InputError(
        formatted("model.name = lenet needs images of at least 12x12, not {}x{}; take cnn or mlp",
                  shape.sample[1], shape.sample[2]));
  }
  const NormChoice norms = norm_choice(config);
  Model model;
  model.shape = shape;
  auto layout = new_layout(config);
  const int input = layout->add_axis("input", shape.sample[0], false);
  const int conv1 = layout->add_axis("conv1", kChannels[0]);
  const int conv2 = layout->add_axis("conv2", kChannels[1]);
  const int fc1 = layout->add_axis("fc1", kNeurons[0]);
  const int fc2 = layout->add_axis("fc2", kNeurons[1]);
  model.class_axis = layout->add_axis("classes", shape.classes, false);

  const auto add = [&](const char* name, const std::string& norm_name, int axis, auto make_layer,
                       Layer after) {
    const int block = layout->add_block(name);
    std::vector<Layer> layers{make_layer(block)};
    add_norm(layers, norms, *layout, block, norm_name, axis);
    layers.push_back(std::move(after));
    model.blocks.push_back(make_block(*layout, block, std::move(layers)));
  };
  add(
      "stem", "norm1", conv1,
      [&](int block) {
        return convolution(*layout, block, "conv1", input, conv1, {kKernel, 1, kKernel / 2}, true);
      },
      relu_pool());
  add(
      "features", "norm2", conv2,
      [&](int block) {
        return convolution(*layout, block, "conv2", conv1, conv2, {kKernel, 1, 0});
      },
      relu_pool());
  std::int64_t positions = 1;
  for (int i : {1, 2}) positions *= (shape.sample[i] / 2 - kKernel + 1) / 2;
  add(
      "hidden1", "norm3", fc1,
      [&](int block) { return linear(*layout, block, "fc1", conv2, positions, fc1); }, relu());
  add(
      "hidden2", "norm4", fc2,
      [&](int block) { return linear(*layout, block, "fc2", fc1, 1, fc2); }, relu());
  add_head(model, *layout, config, {}, "fc3", fc2);
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily lenet_family() {
  return {[](OptionTable&) {}, build, Takes::images, {{1, 28, 28}, 10}};
}

}  // namespace espalier
