// ResNet 18, 34 and 50 (He et al. 2016) with torchvision's names and first values: blocks of two
// 3x3 convolutions, or of 1x1, 3x3 (which has the stride) and 1x1. The outputs of a stage's blocks
// have one axis; widths inside a block have their own axes. A block after the first of its stage
// may be dropped: its input then passes unchanged.

#include <map>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/adapter.h"
#include "espalier/model/layers.h"

namespace espalier {
namespace {

struct Shape {
  std::vector<int> blocks;  ///< of each stage
  bool bottleneck = false;
};

// The output width of a bottleneck in units of its inner width.
constexpr std::int64_t kExpansion = 4;

void declare(OptionTable& table) {
  declare_depth_and_width(table);
  table.add_choice(
      "model.stem", "cifar",
      "resnet: first layers: cifar = a 3x3 convolution; imagenet = a 7x7 one with stride 2, "
      "then 3x3 max-pooling with stride 2",
      {"cifar", "imagenet"});
}

Shape shape_of(std::int64_t depth) {
  static const std::map<std::int64_t, Shape> kDepths{
      {18, {{2, 2, 2, 2}, false}}, {34, {{3, 4, 6, 3}, false}}, {50, {{3, 4, 6, 3}, true}}};
  const auto found = depth == 0 ? kDepths.begin() : kDepths.find(depth);
  if (found == kDepths.end()) {
    throw InputError(formatted("model.depth = {}: resnet has a depth of 18, 34 or 50", depth));
  }
  return found->second;
}

/// The norm to append, and its block and layout.
struct Place {
  Layout& layout;
  NormChoice norms;
  int block;
};

/// Appends a convolution without bias, and its norm.
void add(std::vector<Layer>& layers, const Place& place, const std::string& name,
         const std::string& norm_name, int in, int out, std::int64_t kernel, std::int64_t stride,
         bool first = false) {
  const ConvolutionShape shape{kernel, stride, kernel / 2, /*bias=*/false, /*he_normal=*/true};
  layers.push_back(convolution(place.layout, place.block, name, in, out, shape, first));
  add_norm(layers, place.norms, place.layout, place.block, norm_name, out);
}

Model build(const Config& config, const DataShape& shape) {
  const NormChoice norms = norm_choice(config);
  const Shape sizes = shape_of(config.integer("model.depth"));
  const std::int64_t width = config.integer("model.width");
  const bool imagenet = config.text("model.stem") == "imagenet";

  Model model;
  model.shape = shape;
  auto layout = new_layout(config);
  const int input = layout->add_axis("input", shape.sample[0], false);
  // The first stage of plain blocks adds to the stem's output, so both have one axis.
  int stream = layout->add_axis(sizes.bottleneck ? "conv1" : "layer1", width);
  {
    const int block = layout->add_block("stem");
    std::vector<Layer> layers;
    add(layers, {*layout, norms, block}, "conv1", "bn1", input, stream, imagenet ? 7 : 3,
        imagenet ? 2 : 1, true);
    layers.push_back(relu());
    if (imagenet) layers.push_back(max_pool({3, 2, 1}));
    model.blocks.push_back(make_block(*layout, block, std::move(layers)));
  }

  for (std::size_t stage = 0; stage < sizes.blocks.size(); ++stage) {
    const std::string stage_name = "layer" + std::to_string(stage + 1);
    const std::int64_t inner_width = width << stage;
    const bool own_axis = stage > 0 || sizes.bottleneck;
    const int out =
        own_axis ? layout->add_axis(stage_name, inner_width * (sizes.bottleneck ? kExpansion : 1))
                 : stream;
    for (int i = 0; i < sizes.blocks[stage]; ++i) {
      const std::string name = stage_name + "." + std::to_string(i);
      const std::int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      const int block = layout->add_block(name);
      const Place place{*layout, norms, block};
      std::vector<Layer> body;
      const int inner = layout->add_axis(name + ".conv1", inner_width);
      if (sizes.bottleneck) {
        const int middle = layout->add_axis(name + ".conv2", inner_width);
        add(body, place, name + ".conv1", name + ".bn1", stream, inner, 1, 1);
        body.push_back(relu());
        add(body, place, name + ".conv2", name + ".bn2", inner, middle, 3, stride);
        body.push_back(relu());
        add(body, place, name + ".conv3", name + ".bn3", middle, out, 1, 1);
      } else {
        add(body, place, name + ".conv1", name + ".bn1", stream, inner, 3, stride);
        body.push_back(relu());
        add(body, place, name + ".conv2", name + ".bn2", inner, out, 3, 1);
      }
      std::vector<Layer> shortcut;
      if (stream != out) {
        add(shortcut, place, name + ".downsample.0", name + ".downsample.1", stream, out, 1,
            stride);
      }
      model.blocks.push_back(
          make_block(*layout, block, {residual(std::move(body), std::move(shortcut)), relu()}));
      stream = out;
    }
  }

  add_head(
      model, *layout, config, [](int) { return std::vector{global_pool()}; }, "fc", stream);
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily resnet_family() {
  ModelFamily family{declare, build, Takes::images};
  family.defaults = {{"model.norm", "batch"}};
  family.widths = {"model.width"};
  return family;
}

}  // namespace espalier
