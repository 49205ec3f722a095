#pragma once
// A model is a list of blocks (stem, block 1..n, head). A block computes forward(parameters, x,
// context) with plain ATen calls and the same code at every width; its parameters' buffer layout
// knows what was kept. A model may have further classifiers, its exits, between its blocks: one
// that is cut in depth answers by the last that it keeps.

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
  /// Mode::calibrate, if set: of how many values of the batch each of them is.
  std::vector<std::int64_t>* statistic_values = nullptr;
  /// If set, receives each block's output, in order.
  std::vector<at::Tensor>* taps = nullptr;
  /// If set, receives the logits of the kept exits before the one that answers, in order; else they
  /// are not computed.
  std::vector<at::Tensor>* exits = nullptr;
  /// If set, what the outputs of each unit are multiplied by while masks are searched for: per axis
  /// a tensor over its kept units, undefined where there is none.
  const std::vector<at::Tensor>* gates = nullptr;
};

/// What is trained where that is not simply every trainable entry: a search for masks.
struct Stage {
  std::shared_ptr<const Layout> layout;  ///< the model's, with some entries frozen
  std::vector<bool> gated;               ///< per axis: Context::gates has a tensor
  std::int64_t extra_bytes = 0;          ///< held beside weights and activations
};

/// Kinds of work that a device may do at different rates.
enum class Work { convolution, product, attention, other };
inline constexpr int kWorks = 4;

/// What one node of the backward graph costs at given kept widths and batch. Bytes are of tensors.
struct NodeCost {
  Work work = Work::other;
  std::int64_t forward_flops = 0;  ///< multiply and add count as 2
  std::int64_t weight_bytes = 0;   ///< of the weights that a product or look-up reads
  std::int64_t output_bytes = 0;
  std::vector<int> inputs;  ///< nodes that it reads, -1 the batch; empty: the tape's current one
  bool in_place = false;    ///< the output overwrites, or is a view of, the first input
  bool passes_gradient = false;  ///< an addition or a view: its inputs' gradients are the output's
  bool saves_input = false;      ///< kept from forward to backward
  bool saves_output = false;
  /// Whether it has weights to train. False: a product with a frozen weight, or an activation,
  /// which runs backward only if an input does.
  bool trains = true;
  bool runs_backward = true;                ///< set by the tape
  std::int64_t saved_bytes = 0;             ///< kept beside input and output
  std::int64_t forward_scratch_bytes = 0;   ///< beside input and output, while it runs
  std::int64_t backward_scratch_bytes = 0;  ///< beside both activations' gradients, while it runs
  bool input_gradient = true;               ///< false for a model's first layer
};

/// The nodes of one pass, in order of execution, as the layers of a model write them down; cost.h
/// walks them forward and back to find the peak.
struct CostTape {
  const Submodel& submodel;
  std::int64_t batch = 0;
  std::vector<std::int64_t> shape;  ///< of one sample at the current node
  std::vector<NodeCost> nodes;
  int current = -1;              ///< the node whose output the next layer reads
  const Stage* stage = nullptr;  ///< null: everything is trained

  void add(NodeCost node);
  /// Whether a gradient is made of the entry.
  bool trains(int entry) const;
  /// Elements of the current node's output, for the whole batch.
  std::int64_t elements() const;
};

struct Block {
  std::string name;
  std::function<at::Tensor(const Parameters&, const at::Tensor&, Context&)> forward;
  /// Writes down the nodes of training on the tape's batch.
  std::function<void(CostTape&)> cost;
};

/// What the data looks like to a model.
struct DataShape {
  std::vector<std::int64_t> sample;  ///< {1, 28, 28} of an image, {length} of a text
  std::int64_t classes = 0;          ///< values of a label
  std::int64_t vocabulary = 0;       ///< above 0: samples are tokens (int64) below it
  bool next_token = false;           ///< a label at each position, of the token that follows
  /// Labels of one sample.
  std::int64_t targets() const { return next_token ? sample[0] : 1; }
};

/// The axes of one transformer block, for rules that choose its units (Co-S2P).
struct TransformerAxes {
  int block = -1;
  int heads = -1;    ///< a unit is a head of keys and values with the query heads that it serves
  int columns = -1;  ///< of queries and keys within a head; pairs of columns where they are rotated
  int value_columns = -1;   ///< within a head; the same axis as `columns` where qkv is fused
  int attention_rows = -1;  ///< positions of the stream that the attention writes: a subset axis
  int hidden = -1;          ///< neurons of the MLP
  int mlp_rows = -1;        ///< positions of the stream that the MLP writes: a subset axis
};

/// An axis whose units a mask may choose, and the block that makes them.
struct MaskedAxis {
  int axis = -1;
  int block = -1;
};

/// A classifier, and how many of Model::depth it stands behind. The last one is the head.
struct Exit {
  int block = -1;
  int depth = 0;
};

struct Model {
  std::string name;
  std::shared_ptr<const Layout> layout;
  std::vector<Block> blocks;
  DataShape shape;
  int class_axis = -1;  ///< the axis of the head's outputs
  bool has_statistics = false;
  std::vector<int> depth;  ///< the blocks that a cut in depth drops from the end, in order
  /// Whether they put out what they take in the same shape, so that any of them can be left out.
  bool depth_keeps_shape = false;
  std::vector<Exit> exits;
  std::vector<MaskedAxis> masked;
  std::vector<TransformerAxes> transformer;  ///< its transformer blocks, if any

  bool is_exit(int block) const;
  /// The classifier by which a submodel answers; -1 if it keeps none, as the bottom of a split
  /// model.
  int answer(const Submodel& submodel) const;
};

/// The blocks [first, last) of a submodel at the same widths: a bottom, a middle or a top. It keeps
/// classifiers only if the one by which the submodel answers is among them.
Submodel part_of(const Model& model, const Submodel& submodel, int first, int last);

/// Runs the blocks that the submodel keeps. x: [batch, sample...] float, or what the block before
/// the first kept one puts out. Returns the logits [batch, classes] of its last classifier; of a
/// part without one, the output of its last block.
at::Tensor forward(const Model& model, const Parameters& parameters, at::Tensor x,
                   Context& context);

/// The first `kept` of Model::depth and the exits among them, without those blocks behind the last
/// of these; where there is none, the first `kept` and the head.
Submodel cut_depth(const Model& model, std::int64_t kept);

/// The same number of blocks and exits, beginning `version` classifiers further on, modulo the
/// possible beginnings, so that consecutive versions keep every block. Without exits, cut_depth().
/// Only for a model whose depth_keeps_shape.
Submodel rolling_depth(const Model& model, std::int64_t kept, std::int64_t version);

/// What samples a family is for.
enum class Takes { numbers, images, texts, next_token };

/// A family: its options, and how to build a model of it for given data.
struct ModelFamily {
  std::function<void(OptionTable&)> declare;
  /// For data of the form that it takes; InputError where sizes do not fit.
  std::function<Model(const Config&, const DataShape&)> build;
  Takes takes = Takes::images;
  DataShape customary{{3, 32, 32}, 10};  ///< of the data that it is mostly shown with
  /// Its own defaults of options that families share ("model.norm").
  std::vector<std::pair<std::string, std::string>> defaults{};
};
/// mlp, lenet, cnn, vgg, resnet, vit, gpt, encoder (one file each in src/model).
ModelFamily mlp_family();
ModelFamily lenet_family();
ModelFamily cnn_family();
ModelFamily vgg_family();
ModelFamily resnet_family();
ModelFamily vit_family();
ModelFamily gpt_family();
ModelFamily encoder_family();
const Registry<ModelFamily>& model_families();
/// Declares "model.name", "model.norm", "model.groups", "model.classes" and every family's options
/// ("model.hidden",
/// ...).
void declare_model_options(OptionTable& table);
/// Sets the defaults of the family that "model.name" asks for.
void set_model_defaults(Config& config);
/// Builds what "model.name" asks for, with model.classes outputs (0: as many as the data has).
/// InputError where the data is not what the family takes, with the families that take it, or where
/// sizes do not fit.
Model build_model(const Config& config, const DataShape& data);

}  // namespace espalier
