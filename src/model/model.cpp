#include "espalier/model/model.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/adapter.h"
#include "espalier/model/ensemble.h"
#include "espalier/model/key_value_cache.h"
#include "espalier/model/layers.h"
#include "espalier/model/transformer.h"

namespace espalier {

void CostTape::add(NodeCost node) {
  if (node.inputs.empty()) node.inputs = {current};
  const auto has_gradient = [&](int input) {
    return input >= 0 && nodes[static_cast<std::size_t>(input)].runs_backward;
  };
  node.runs_backward =
      node.runs_backward || node.trains || std::ranges::any_of(node.inputs, has_gradient);
  current = static_cast<int>(nodes.size());
  nodes.push_back(std::move(node));
}

bool CostTape::trains(int entry) const {
  if (entry < 0 || layout == nullptr) return entry >= 0;
  return layout->entries[static_cast<std::size_t>(first_entry + entry)].kind != Kind::frozen;
}

std::int64_t CostTape::elements() const {
  std::int64_t n = batch;
  for (const std::int64_t size : shape) n *= size;
  return n;
}

bool Model::is_exit(int block) const {
  return std::ranges::any_of(exits, [&](const Exit& exit) { return exit.block == block; });
}

int Model::answer(const Submodel& submodel) const {
  const auto kept = std::find_if(exits.rbegin(), exits.rend(),
                                 [&](const Exit& exit) { return submodel.has_block(exit.block); });
  return kept == exits.rend() ? -1 : kept->block;
}

Submodel part_of(const Model& model, const Submodel& submodel, int first, int last) {
  ESPALIER_CHECK(0 <= first && first < last && last <= submodel.blocks(), "blocks {} to {} of {}",
                 first, last, submodel.blocks());
  const int answer = model.answer(submodel);
  const bool answers = first <= answer && answer < last;
  Submodel part = submodel;
  for (int block = 0; block < submodel.blocks(); ++block) {
    const bool inside = first <= block && block < last;
    if (!inside || (model.is_exit(block) && !answers)) part.keep_block(block, false);
  }
  return part;
}

at::Tensor forward(const Model& model, const Parameters& parameters, at::Tensor x,
                   Context& context) {
  const int answer = model.answer(parameters.submodel());
  const std::int64_t positions = context.cache ? x.size(1) : 0;
  ESPALIER_CHECK(!context.cache || (takes_cache(model) && context.mode == Mode::evaluate &&
                                    !context.gates && x.size(0) == context.cache->batch()));
  // Without this, views and additions of a single row cost more for their gradients, of which there
  // are none, than for themselves.
  std::optional<at::AutoDispatchBelowADInplaceOrView> no_gradients;
  if (context.cache) no_gradients.emplace();
  std::vector<at::Tensor> members;
  for (int i = 0; i < static_cast<int>(model.blocks.size()); ++i) {
    if (!parameters.submodel().has_block(i)) continue;
    const Block& block = model.blocks[static_cast<std::size_t>(i)];
    if (model.is_exit(i) && i != answer) {
      std::vector<at::Tensor>* const others = context.exits       ? context.exits
                                              : model.is_ensemble ? &members
                                                                  : nullptr;
      if (others != nullptr) others->push_back(block.forward(parameters, x, context));
      continue;
    }
    if (context.cache && context.last_position && i == answer) {
      x = x.narrow(1, positions - 1, 1).contiguous();
    }
    x = block.forward(parameters, x, context);
    if (context.taps) context.taps->push_back(x);
    if (context.projected && i == model.projection) *context.projected = x;
    if (i == answer) break;  // blocks kept after it are not used
  }
  if (context.cache) context.cache->advance(positions);
  if (members.empty()) return x;
  members.push_back(x);
  return mean_of(members);
}

namespace {

/// Number of classifiers with at most `kept` blocks before them.
std::int64_t exits_within(const Model& model, std::int64_t kept) {
  return std::ranges::count_if(model.exits, [&](const Exit& exit) { return exit.depth <= kept; });
}

/// Keeps `count` exits from the `first` on, the blocks between them, and the blocks between the
/// first and the exit before it.
Submodel keep_exits(const Model& model, std::int64_t first, std::int64_t count) {
  const auto depth_of = [&](std::int64_t exit) {
    return exit < 0 ? 0 : model.exits[static_cast<std::size_t>(exit)].depth;
  };
  Submodel submodel = Submodel::full(*model.layout);
  for (std::int64_t i = 0; i < std::ssize(model.depth); ++i) {
    const bool kept = depth_of(first - 1) <= i && i < depth_of(first + count - 1);
    submodel.keep_block(model.depth[static_cast<std::size_t>(i)], kept);
  }
  for (std::int64_t i = 0; i < std::ssize(model.exits); ++i) {
    submodel.keep_block(model.exits[static_cast<std::size_t>(i)].block,
                        first <= i && i < first + count);
  }
  return submodel;
}

}  // namespace

Submodel cut_depth(const Model& model, std::int64_t kept) {
  ESPALIER_CHECK(0 <= kept && kept <= std::ssize(model.depth), "{} of {} blocks", kept,
                 model.depth.size());
  if (const std::int64_t exits = exits_within(model, kept); exits > 0) {
    return keep_exits(model, 0, exits);
  }
  Submodel submodel = keep_exits(model, std::ssize(model.exits) - 1, 1);
  for (std::int64_t i = 0; i < std::ssize(model.depth); ++i) {
    submodel.keep_block(model.depth[static_cast<std::size_t>(i)], i < kept);
  }
  return submodel;
}

Submodel rolling_depth(const Model& model, std::int64_t kept, std::int64_t version) {
  const std::int64_t exits = exits_within(model, kept);
  if (exits == 0) return cut_depth(model, kept);
  return keep_exits(model, version % (std::ssize(model.exits) - exits + 1), exits);
}

const Registry<ModelFamily>& model_families() {
  static const Registry<ModelFamily> families = [] {
    Registry<ModelFamily> list("model family");
    list.add("mlp", "fully connected layers with ReLU, for inputs of any shape", mlp_family());
    list.add("lenet", "LeNet-5: two 5x5 convolutions with pooling, three linear layers",
             lenet_family());
    list.add("cnn", "convolutions each followed by 2x2 pooling, one hidden linear layer",
             cnn_family());
    list.add("cnn1d", "convolutions along a signal (sound, motion), each followed by pooling",
             cnn1d_family());
    list.add("vgg", "VGG 11, 13 or 16: 3x3 convolutions in five stages, batch norm by default",
             vgg_family());
    list.add("resnet", "ResNet 18, 34 or 50: residual blocks in four stages, batch norm by default",
             resnet_family());
    list.add("vit", "vision transformer for images", vit_family());
    list.add("gpt", "transformer that predicts the next token of a text", gpt_family());
    list.add("encoder", "transformer that classifies texts or predicts their hidden tokens",
             encoder_family());
    list.add("lstm", "LSTM layers that predict the next token of a text, or classify it",
             lstm_family());
    return list;
  }();
  return families;
}

void declare_model_options(OptionTable& table) {
  std::vector<std::string> names;
  for (const auto& item : model_families().items()) names.push_back(item.name);
  table.add_choice("model.name", "lenet", "model family", names);
  table.add_choice(
      "model.norm", "none",
      "norm after each hidden layer; batch norm uses batch statistics in training and is "
      "calibrated before evaluation",
      {"none", "batch", "group", "layer"});
  table.add({"model.groups", OptionType::integer, "4",
             "group norm: upper limit of the groups; the largest number up to it that divides the "
             "kept width is used",
             "", 1, 1e6});
  table.add({"model.classes", OptionType::integer, "0",
             "outputs of the classifier; 0 = the classes of the data", "", 0, 1e9});
  table.add({"model.exits", OptionType::integer, "1",
             "classifiers, at equal distances in depth; the last is the model's head (vit, "
             "encoder, cnn, cnn1d, lstm)",
             "", 1, 1e6});
  declare_ensemble_option(table);
  table.add({"model.projection", OptionType::integer, "0",
             "outputs of a projection head (linear, ReLU, linear) before the classifier, which no "
             "rule cuts; 0 = none (not for gpt and lstm)",
             "", 0, 1e6});
  declare_adapter_options(table);
  declare_transformer_options(table);
  for (const auto& item : model_families().items()) item.value.declare(table);
}

void set_model_defaults(Config& config) {
  const auto& family = model_families().get(config.text("model.name"));
  for (const auto& [key, value] : family.value.defaults) config.set_default(key, value);
}

namespace {

bool fits(Takes takes, const DataShape& data) {
  const bool is_text = data.vocabulary > 0 && data.sample.size() == 1;
  switch (takes) {
    case Takes::numbers:
      return data.vocabulary == 0;
    case Takes::images:
      return data.vocabulary == 0 && data.sample.size() == 3;
    case Takes::signals:
      return data.vocabulary == 0 && data.sample.size() == 2;
    case Takes::texts:
      return is_text && !data.next_token;
    case Takes::next_token:
      return is_text && data.next_token;
    case Takes::tokens:
      return is_text && data.masked == 0;
  }
  return false;
}

const char* description(Takes takes) {
  switch (takes) {
    case Takes::numbers:
      return "numbers of any shape";
    case Takes::images:
      return "images (channels, height, width)";
    case Takes::signals:
      return "signals (channels, length)";
    case Takes::texts:
      return "texts with one class each or with hidden tokens";
    case Takes::next_token:
      return "texts whose next token is predicted";
    case Takes::tokens:
      return "texts without hidden tokens";
  }
  return "";
}

std::string description(const DataShape& data) {
  const std::string shape = formatted("{}", fmt::join(data.sample, "x"));
  if (data.vocabulary == 0) return formatted("numbers of the shape {}", shape);
  if (data.sample.size() != 1) return formatted("tokens of the shape {}", shape);
  return formatted("texts of {} tokens {}", shape,
                   data.next_token   ? "whose next token is predicted"
                   : data.masked > 0 ? "with hidden tokens"
                                     : "with one class each");
}

/// Whether images seem to be rows of pixels with 1, 3 or 4 channels each.
bool has_channels_last(const std::vector<std::int64_t>& sample) {
  const std::int64_t last = sample[2];
  if (last != 1 && last != 3 && last != 4) return false;
  const bool is_square = sample[0] == sample[1] && sample[0] > 4;
  return is_square || (last > 1 && sample[0] >= 16 && sample[1] >= 16);
}

/// Whether the outputs of all blocks of Model::depth have the shape of their inputs.
bool keeps_shape_in_depth(const Model& model, const Submodel& submodel) {
  CostTape tape{submodel, 1, model.shape.sample, {}, -1, nullptr};
  for (int i = 0; i < static_cast<int>(model.blocks.size()); ++i) {
    if (model.is_exit(i)) continue;
    const std::vector<std::int64_t> before = tape.shape;
    model.blocks[static_cast<std::size_t>(i)].cost(tape);
    const bool is_cut = std::ranges::find(model.depth, i) != model.depth.end();
    if (is_cut && tape.shape != before) return false;
  }
  return true;
}

/// The same at every width: input and output are along one axis, and do not only have equal sizes.
bool keeps_shape_in_depth(const Model& model) {
  const Submodel full = Submodel::full(*model.layout);
  if (!keeps_shape_in_depth(model, full)) return false;
  for (std::size_t axis = 0; axis < model.layout->axes.size(); ++axis) {
    const Axis& a = model.layout->axes[axis];
    if (!a.cuttable || a.within >= 0 || a.size == 1) continue;
    std::vector<std::int64_t> units(static_cast<std::size_t>(a.size - 1));
    std::iota(units.begin(), units.end(), 0);
    Submodel cut = full;
    cut.keep(static_cast<int>(axis), std::move(units));
    if (!keeps_shape_in_depth(model, cut)) return false;
  }
  return true;
}

/// Here, and not in each family, so that --check and a run agree on every pair.
void check_data(const std::string& name, Takes takes, const DataShape& data) {
  if (!fits(takes, data)) {
    std::vector<std::string> others;
    for (const auto& family : model_families().items()) {
      if (fits(family.value.takes, data)) others.push_back(family.name);
    }
    const std::string advice = others.empty()
                                   ? "store texts as rows of tokens, and numbers as floats"
                                   : formatted("take {} for it", fmt::join(others, ", "));
    throw InputError(formatted("model.name = {} is for {}, and the data is {}; {}", name,
                               description(takes), description(data), advice));
  }
  if (takes == Takes::images && has_channels_last(data.sample)) {
    const auto& s = data.sample;
    throw InputError(formatted(
        "model.name = {} is for images whose channels come first, and samples of the "
        "shape {}x{}x{} have them last; store them as {}x{}x{} (numpy.moveaxis(x, -1, 1))",
        name, s[0], s[1], s[2], s[2], s[0], s[1]));
  }
}

}  // namespace

Model build_model(const Config& config, const DataShape& data) {
  const auto& family = model_families().get(config.text("model.name"));
  check_data(family.name, family.value.takes, data);
  DataShape shape = data;
  const std::int64_t classes = config.integer("model.classes");
  if (classes > 0) {
    if (data.classes > classes) {
      throw InputError(
          formatted("the data has {} classes, but the model only {}: set model.classes to at "
                    "least {}, or to 0",
                    data.classes, classes, data.classes));
    }
    shape.classes = classes;
  }
  if (shape.classes < 2) {
    throw InputError(
        formatted("the data has {} classes; a classifier needs at least 2", shape.classes));
  }
  Model model = family.value.build(config, shape);
  model.name = family.name;
  model.shape = shape;
  if (model.exits.empty()) {
    model.exits.push_back(
        {static_cast<int>(model.blocks.size()) - 1, static_cast<int>(model.depth.size())});
  }
  if (config.integer("model.exits") != std::ssize(model.exits)) {
    throw InputError(
        formatted("model.name = {} has one classifier only; set model.exits = 1", family.name));
  }
  const bool has_projection = config.integer("model.projection") > 0;
  if (const std::int64_t members = config.integer("model.members"); members > 1) {
    if (has_projection) {
      throw InputError(
          "model.projection is for a single network; set model.members = 1, or "
          "model.projection = 0");
    }
    model = ensemble(config, family.name, shape, members);
  } else if (has_projection) {
    if (std::ssize(model.exits) > 1) {
      throw InputError(
          "model.projection is for a model with one classifier; set model.exits = 1, or "
          "model.projection = 0");
    }
    if (model.projection < 0) {
      throw InputError(formatted("model.name = {} has no projection head; set model.projection = 0",
                                 family.name));
    }
  }
  for (const Entry& entry : model.layout->entries) {
    if (entry.kind == Kind::statistic) model.has_statistics = true;
  }
  refuse_idle_adapters(model);
  model.depth_keeps_shape = keeps_shape_in_depth(model);
  return model;
}

}  // namespace espalier
