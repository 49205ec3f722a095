// Convolutions along a signal, each with norm, ReLU and pooling, then the mean over all positions
// and one linear layer: the network M5 of Dai et al. (2017) for sound, which samples the waveform
// with long kernels and a stride in its first layer. With the defaults, signals of 16,000 values
// and 35 classes it is the network of MergeSFL's code for speech commands (26,915 parameters).

#include <utility>

#include "espalier/base/error.h"
#include "espalier/config/lists.h"
#include "espalier/model/adapter.h"
#include "espalier/model/layers.h"

namespace espalier {
namespace {

void declare(OptionTable& table) {
  table.add({"model.first_kernel", OptionType::integer, "80",
             "cnn1d: length of the first convolution's kernels", "", 1, 1e6});
  table.add({"model.first_stride", OptionType::integer, "16",
             "cnn1d: stride of the first convolution", "", 1, 1e6});
  table.add({"model.pool", OptionType::integer, "4",
             "cnn1d: length and stride of the max-pooling after each convolution; 1 = none", "", 1,
             1e6});
}

/// The form of the n-th convolution, from 1.
ConvolutionShape form_of(const Config& config, int number) {
  ConvolutionShape form{config.integer(number == 1 ? "model.first_kernel" : "model.kernel"),
                        number == 1 ? config.integer("model.first_stride") : 1};
  form.signal = true;
  return form;
}

/// The length after a layer with this window. InputError if nothing is left.
std::int64_t shortened(std::int64_t length, const ConvolutionShape& window, const char* key,
                       int number, std::int64_t whole) {
  if (length >= window.kernel) return window.outputs(length);
  throw InputError(
      formatted("model.{} = {} is longer than the {} values that are left of a signal of {} in "
                "convolution {}: lower it, model.first_stride or model.pool, or give "
                "model.channels fewer entries",
                key, window.kernel, length, whole, number));
}

Model build(const Config& config, const DataShape& shape) {
  const NormChoice norms = norm_choice(config);
  const std::vector<std::int64_t> stages = whole_numbers(config, "model.channels", "width");
  const std::int64_t exits = config.integer("model.exits");
  const std::int64_t depth = std::ssize(stages) - 1;  // the first convolution always stays
  if (exits > 1 && exits > depth) {
    throw InputError(formatted(
        "model.exits = {} is more than the {} of model.channels after the first", exits, depth));
  }
  const std::int64_t pool = config.integer("model.pool");
  ConvolutionShape window{pool, pool};
  window.signal = true;

  Model model;
  model.shape = shape;
  auto layout = new_layout(config);
  if (exits > 1) model.class_axis = layout->add_axis("classes", shape.classes, false);
  int width = layout->add_axis("input", shape.sample[0], false);
  std::int64_t length = shape.sample[1];
  int number = 0;
  for (const std::int64_t channels : stages) {
    const std::string n = std::to_string(++number);
    const bool first = number == 1;
    const ConvolutionShape form = form_of(config, number);
    length = shortened(length, form, first ? "first_kernel" : "kernel", number, shape.sample[1]);
    length = shortened(length, window, "pool", number, shape.sample[1]);
    const int block = layout->add_block(first ? "stem" : "conv" + n);
    const int out = layout->add_axis("conv" + n, channels);
    std::vector<Layer> layers;
    if (first) layers.push_back(signal_as_image());
    layers.push_back(convolution(*layout, block, "conv" + n, width, out, form, first));
    add_norm(layers, norms, *layout, block, "norm" + n, out);
    layers.push_back(relu());
    if (pool > 1) layers.push_back(max_pool(window));
    layers.push_back(gate(out));
    model.masked.push_back({out, block});
    model.blocks.push_back(make_block(*layout, block, std::move(layers)));
    if (!first) end_stage(model, *layout, block, out, depth, exits);
    width = out;
  }
  const int block = add_head(
      model, *layout, config, [](int) { return std::vector{global_pool()}; }, "fc", width);
  if (exits > 1) model.exits.push_back({block, static_cast<int>(depth)});
  model.layout = std::move(layout);
  return model;
}

}  // namespace

ModelFamily cnn1d_family() {
  ModelFamily family{declare, build, Takes::signals, {{1, 16000}, 35}};
  family.defaults = {
      {"model.channels", "32,32,64,64"}, {"model.kernel", "3"}, {"model.norm", "batch"}};
  family.widths = {"model.channels"};
  return family;
}

}  // namespace espalier
