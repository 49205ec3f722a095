// VGG 11, 13 and 16 (Simonyan and Zisserman 2015, configurations A, B, D): 3x3 convolutions, each
// with norm and ReLU, in five stages that end in 2x2 pooling. A stage has no pooling if its map is
// one pixel (28x28 images). The classifier is one linear layer, unless model.classifier gives the
// hidden layers of the original; these have no dropout here. Names and first values of the
// convolutions are torchvision's.

#include <algorithm>
#include <map>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/config/lists.h"
#include "espalier/model/adapter.h"
#include "espalier/model/layers.h"

namespace espalier {
namespace {

constexpr std::int64_t kKernel = 3;
// Channels of the stages in units of model.width.
constexpr std::int64_t kStages[] = {1, 2, 4, 8, 8};

void declare(OptionTable& table) {
  declare_depth_and_width(table);
  table.add({"model.classifier", OptionType::real_list, "0",
             "vgg: widths of hidden linear layers before the classes, 4096,4096 in the original; "
             "0 = none",
             "neurons", 0, 1e9});
}

/// Convolutions of each stage.
std::vector<int> stages_of(std::int64_t depth) {
  static const std::map<std::int64_t, std::vector<int>> kDepths{
      {11, {1, 1, 2, 2, 2}}, {13, {2, 2, 2, 2, 2}}, {16, {2, 2, 3, 3, 3}}};
  const auto found = depth == 0 ? kDepths.begin() : kDepths.find(depth);
  if (found == kDepths.end()) {
    throw InputError(formatted("model.depth = {}: vgg has a depth of 11, 13 or 16", depth));
  }
  return found->second;
}

Model build(const Config& config, const DataShape& shape) {
  const NormChoice norms = norm_choice(config);
  const std::vector<int> stages = stages_of(config.integer("model.depth"));
  const std::int64_t width = config.integer("model.width");
  std::vector<std::int64_t> hidden;
  if (config.reals("model.classifier") != std::vector<double>{0}) {
    hidden = whole_numbers(config, "model.classifier", "width");
  }

  Model model;
  model.shape = shape;
  auto layout = new_layout(config);
  const auto add_block = [&](int block, std::vector<Layer> layers) {
    model.blocks.push_back(make_block(*layout, block, std::move(layers)));
  };
  int channels = layout->add_axis("input", shape.sample[0], false);
  std::int64_t height = shape.sample[1];
  std::int64_t columns = shape.sample[2];
  int place = 0;  // in torchvision's list of layers, in which ReLU and pooling have numbers too
  for (std::size_t stage = 0; stage < stages.size(); ++stage) {
    for (int i = 0; i < stages[stage]; ++i) {
      const bool first = place == 0;
      const std::string name = "features." + std::to_string(place++);
      const int block = layout->add_block(first ? "stem" : name);
      const int out = layout->add_axis(name, width * kStages[stage]);
      ConvolutionShape form{kKernel, 1, kKernel / 2};
      form.he_normal = true;
      std::vector<Layer> layers{convolution(*layout, block, name, channels, out, form, first)};
      if (norms.kind != NormKind::none) {
        layers.push_back(norm(norms, *layout, block, "features." + std::to_string(place++), out));
      }
      ++place;  // ReLU
      const bool last = i + 1 == stages[stage];
      const bool pool = last && std::min(height, columns) > 1;
      layers.push_back(pool ? relu_pool() : relu());
      if (pool) {
        height /= 2;
        columns /= 2;
      }
      if (last) ++place;
      add_block(block, std::move(layers));
      channels = out;
    }
  }

  int features = channels;
  std::int64_t positions = height * columns;
  place = 0;
  const std::string classifier = "classifier";
  const auto numbered = [&] { return classifier + "." + std::to_string(place); };
  for (const std::int64_t neurons : hidden) {
    const std::string name = numbered();
    const int block = layout->add_block(name);
    const int out = layout->add_axis(name, neurons);
    add_block(block, {linear(*layout, block, name, features, positions, out), relu()});
    features = out;
    positions = 1;
    place += 3;  // linear, ReLU, dropout
  }
  add_head(model, *layout, config, {}, hidden.empty() ? classifier : numbered(), features,
           positions);
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily vgg_family() {
  ModelFamily family{declare, build, Takes::images};
  family.defaults = {{"model.norm", "batch"}};
  family.widths = {"model.width", "model.classifier"};
  return family;
}

}  // namespace espalier
