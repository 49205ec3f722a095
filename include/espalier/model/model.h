#pragma once
// A model is a list of blocks (stem, block 1..n, head). A block computes forward(parameters, x,
// context) with plain ATen calls and the same code at every width; its parameters' geometry knows
// what was kept.

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/base/registry.h"
#include "espalier/config/config.h"
#include "espalier/model/layout.h"
#include "espalier/model/parameters.h"

namespace espalier {

enum class Mode { train, evaluate, calibrate };

/// Everything a forward pass needs beside parameters and input.
struct Context {
  Mode mode = Mode::evaluate;
  /// HeteroFL's scaler: in training, the output of each cut layer is divided by its kept share.
  bool scaler = false;
  /// For dropout and gates; null where nothing is drawn.
  Stream* random = nullptr;
  /// Mode::calibrate: value of each statistic entry for this batch, at the entry's index (undefined
  /// for entries that are no statistics).
  std::vector<at::Tensor>* statistics = nullptr;
  /// If set, receives each block's output, in order.
  std::vector<at::Tensor>* taps = nullptr;
};

/// What one layer (one node of the backward graph) costs at given kept widths and batch. Bytes are
/// of tensors; cost.h walks them forward and back to find the peak.
struct LayerCost {
  std::int64_t forward_flops = 0;  ///< multiply and add count as 2
  std::int64_t output_bytes = 0;
  bool in_place = false;     ///< the output overwrites the input
  bool saves_input = false;  ///< kept from forward to backward
  bool saves_output = false;
  std::int64_t saved_bytes = 0;             ///< kept beside input and output
  std::int64_t forward_scratch_bytes = 0;   ///< beside input and output, while it runs
  std::int64_t backward_scratch_bytes = 0;  ///< beside both activations' gradients, while it runs
  bool input_gradient = true;               ///< false for a model's first layer
};

/// What a block costs at given kept widths.
struct BlockCost {
  std::int64_t parameters = 0;     ///< trainable values
  std::int64_t forward_flops = 0;  ///< for the whole batch
  std::vector<LayerCost> layers;   ///< in order of execution
};

struct Block {
  std::string name;
  std::function<at::Tensor(const Parameters&, const at::Tensor&, Context&)> forward;
  /// Cost of training on a batch of `batch` samples of shape `shape` (without batch); replaces
  /// `shape` by the output's.
  std::function<BlockCost(const Submodel&, std::int64_t batch, std::vector<std::int64_t>& shape)>
      cost;
};

/// What the data looks like to a model.
struct DataShape {
  std::vector<std::int64_t> sample;  ///< e.g. {1, 28, 28}
  std::int64_t classes = 0;
};

struct Model {
  std::string name;
  std::shared_ptr<const Layout> layout;
  std::vector<Block> blocks;
  DataShape shape;
  int class_axis = -1;  ///< the axis of the head's outputs
  bool has_statistics = false;
};

/// Runs the blocks that the submodel keeps. x: [batch, sample...] float; returns logits [batch,
/// classes].
at::Tensor forward(const Model& model, const Parameters& parameters, at::Tensor x,
                   Context& context);

/// A family: its options, and how to build a model of it for given data.
struct ModelFamily {
  std::function<void(OptionTable&)> declare;
  std::function<Model(const Config&, const DataShape&)> build;
};
/// mlp, lenet, cnn (one file each in src/model).
ModelFamily mlp_family();
ModelFamily lenet_family();
ModelFamily cnn_family();
const Registry<ModelFamily>& model_families();
/// Declares "model.name", "model.norm", "model.groups", "model.classes" and every family's options
/// ("model.hidden",
/// ...).
void declare_model_options(OptionTable& table);
/// Builds what "model.name" asks for, with model.classes outputs (0: as many as the data has).
/// InputError where sizes do not fit the data.
Model build_model(const Config& config, const DataShape& data);

}  // namespace espalier
