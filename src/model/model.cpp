#include "espalier/model/model.h"

#include <set>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/layers.h"
#include "espalier/model/transformer.h"

namespace espalier {

void CostTape::add(NodeCost node) {
  if (node.inputs.empty()) node.inputs = {current};
  current = static_cast<int>(nodes.size());
  nodes.push_back(std::move(node));
}

std::int64_t CostTape::elements() const {
  std::int64_t n = batch;
  for (const std::int64_t size : shape) n *= size;
  return n;
}

at::Tensor forward(const Model& model, const Parameters& parameters, at::Tensor x,
                   Context& context) {
  for (std::size_t i = 0; i < model.blocks.size(); ++i) {
    if (!parameters.submodel().has_block(static_cast<int>(i))) continue;
    x = model.blocks[i].forward(parameters, x, context);
    if (context.taps) context.taps->push_back(x);
  }
  return x;
}

const Registry<ModelFamily>& model_families() {
  static const Registry<ModelFamily> families = [] {
    Registry<ModelFamily> list("model family");
    list.add("mlp", "fully connected layers with ReLU, for inputs of any shape", mlp_family());
    list.add("lenet", "LeNet-5: two 5x5 convolutions with pooling, three linear layers",
             lenet_family());
    list.add("cnn", "convolutions each followed by 2x2 pooling, one hidden linear layer",
             cnn_family());
    list.add("vgg", "VGG 11, 13 or 16: 3x3 convolutions in five stages, batch norm by default",
             vgg_family());
    list.add("resnet", "ResNet 18, 34 or 50: residual blocks in four stages, batch norm by default",
             resnet_family());
    list.add("vit", "vision transformer for images", vit_family());
    list.add("gpt", "transformer that predicts the next token of a text", gpt_family());
    list.add("encoder", "transformer that classifies texts", encoder_family());
    return list;
  }();
  return families;
}

void declare_model_options(OptionTable& table) {
  std::vector<std::string> names;
  for (const auto& item : model_families().items()) names.push_back(item.name);
  table.add({"model.name", OptionType::choice, "lenet", "model family", "", {}, {}, names});
  table.add({"model.norm",
             OptionType::choice,
             "none",
             "norm after each hidden layer; batch norm uses batch statistics in training and is "
             "calibrated before evaluation",
             "",
             {},
             {},
             {"none", "batch", "group", "layer"}});
  table.add({"model.groups", OptionType::integer, "4",
             "group norm: most groups (the largest number that divides the kept width is used)", "",
             1, 1e6});
  table.add({"model.classes", OptionType::integer, "0",
             "outputs of the classifier; 0 = the classes of the data", "", 0, 1e9});
  declare_transformer_options(table);
  for (const auto& item : model_families().items()) item.value.declare(table);
}

void set_model_defaults(Config& config) {
  const auto& family = model_families().get(config.text("model.name"));
  for (const auto& [key, value] : family.value.defaults) config.set_default(key, value);
}

Model build_model(const Config& config, const DataShape& data) {
  const auto& family = model_families().get(config.text("model.name"));
  DataShape shape = data;
  const std::int64_t classes = config.integer("model.classes");
  if (classes > 0) {
    if (data.classes > classes) {
      throw InputError(
          fmt::format("the data has {} classes, but the model only {}: set model.classes to at "
                      "least {}, or to 0",
                      data.classes, classes, data.classes));
    }
    shape.classes = classes;
  }
  if (shape.classes < 2) {
    throw InputError(
        fmt::format("the data has {} classes; a classifier needs at least 2", shape.classes));
  }
  Model model = family.value.build(config, shape);
  model.name = family.name;
  model.shape = shape;
  for (const Entry& entry : model.layout->entries) {
    if (entry.kind == Kind::statistic) model.has_statistics = true;
  }
  return model;
}

}  // namespace espalier
