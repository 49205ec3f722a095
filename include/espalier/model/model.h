#pragma once
// A model is a list of blocks (stem, block 1..n, head). A block computes forward(parameters, x,
// context) with plain ATen calls and the same code at every width; its parameters' buffer layout
// knows what was kept. A model may have further classifiers, its exits, between its blocks: a
// submodel that is cut in depth answers by its last kept classifier.

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

class KeyValueCache;

enum class Mode { train, evaluate, calibrate };

/// The inputs of a forward pass beside parameters and samples.
struct Context {
  Mode mode = Mode::evaluate;
  /// HeteroFL's scaler: in training, the output of each cut layer is divided by its kept fraction.
  bool scaler = false;
  /// For dropout and gates; null if nothing is drawn.
  Stream* random = nullptr;
  /// Mode::calibrate: value of each statistic entry for this batch, at the entry's index (undefined
  /// for other entries).
  std::vector<at::Tensor>* statistics = nullptr;
  /// Mode::calibrate, if set: number of the batch's values in each statistic.
  std::vector<std::int64_t>* statistic_values = nullptr;
  /// If the model predicts hidden tokens: their places in the batch's positions, in order. Set by
  /// the model's first block for its heads.
  at::Tensor hidden{};
  /// If set, receives each block's output, in order.
  std::vector<at::Tensor>* taps = nullptr;
  /// If set, receives the output of the projection head; stays undefined if the model has none.
  at::Tensor* projected = nullptr;
  /// If set, receives the logits of the kept exits before the answering one, in order; else they
  /// are not computed.
  std::vector<at::Tensor>* exits = nullptr;
  /// If set, factors of the outputs of each unit in a search for masks: per axis a tensor over its
  /// kept units, undefined if the axis has none.
  const std::vector<at::Tensor>* gates = nullptr;
  /// If set, x [batch, any number of positions] goes on with the texts that the cache has read, and
  /// is added to it. Each position's values have the same bits however the text was cut, because
  /// the layers compute row by row (row_operations.h). Only to evaluate.
  KeyValueCache* cache = nullptr;
  /// With a cache: the answering classifier reads the last position of x only.
  bool last_position = false;
};

/// A stage of training that trains only some entries: a search for masks.
struct Stage {
  std::shared_ptr<const Layout> layout;  ///< the model's, with some entries frozen
  std::vector<bool> gated;               ///< per axis: Context::gates has a tensor
  std::int64_t extra_bytes = 0;          ///< memory beside weights and activations
};

/// Kinds of work that a device may do at different rates.
enum class Work { convolution, product, attention, other };
inline constexpr int kWorks = 4;

/// The cost of one node of the backward graph at given kept widths and batch. Bytes are of tensors.
struct NodeCost {
  Work work = Work::other;
  std::int64_t forward_flops = 0;  ///< multiply and add count as 2
  std::int64_t weight_bytes = 0;   ///< of the weights that a product or look-up reads
  std::int64_t output_bytes = 0;
  std::vector<int> inputs;  ///< nodes that it reads, -1 = the batch; empty: the tape's current node
  bool in_place = false;    ///< the output overwrites, or is a view of, the first input
  bool passes_gradient = false;  ///< an addition or a view: its inputs' gradients are the output's
  bool saves_input = false;      ///< saved from forward to backward
  bool saves_output = false;
  /// Whether its weights are trained; of a product or look-up, the weight that `weight_bytes`
  /// counts.
  bool trains = false;
  /// Whether it runs backward even so, as for a trained bias. The tape adds that it does if its
  /// weights are trained or an input runs backward.
  bool runs_backward = false;
  std::int64_t saved_bytes = 0;             ///< saved beside input and output
  std::int64_t forward_scratch_bytes = 0;   ///< beside input and output, while it runs
  std::int64_t backward_scratch_bytes = 0;  ///< beside both activations' gradients, while it runs
  bool input_gradient = true;               ///< false for a model's first layer
};

/// Scratch bytes of a convolution, linear or norm layer for small tensors that its cost does not
/// list (biases, statistics, scalars).
inline constexpr std::int64_t kSmallTensors = 4096;

/// The nodes of one pass, in order of execution, as the layers of a model add them; cost.h walks
/// them forward and back to find the peak.
struct CostTape {
  const Submodel& submodel;
  std::int64_t batch = 0;
  std::vector<std::int64_t> shape;  ///< of one sample at the current node
  std::vector<NodeCost> nodes;
  int current = -1;                ///< the node whose output the next layer reads
  const Stage* stage = nullptr;    ///< null: the whole training
  const Layout* layout = nullptr;  ///< of the training or its stage; null: everything is trained
  int first_entry = 0;             ///< in that layout, of the layers' own entries

  void add(NodeCost node);
  /// Whether the entry gets a gradient; -1: no entry.
  bool trains(int entry) const;
  /// Elements of the current node's output, for the whole batch.
  std::int64_t elements() const;
};

struct Block {
  std::string name;
  std::function<at::Tensor(const Parameters&, const at::Tensor&, Context&)> forward;
  /// Adds the nodes of training on the tape's batch.
  std::function<void(CostTape&)> cost;
  /// Numbers of a cache's keys and values for each position; empty if it looks at no other
  /// positions.
  std::function<std::int64_t(const Submodel&)> cached{};
};

/// The shape of data for a model.
struct DataShape {
  std::vector<std::int64_t> sample;  ///< {1, 28, 28} of an image, {channels, length} of a signal,
                                     ///< {length} of a text
  std::int64_t classes = 0;          ///< number of different labels
  std::int64_t vocabulary = 0;       ///< above 0: samples are tokens (int64) below this number
  bool next_token = false;           ///< each position has a label, the next token
  /// Number of hidden tokens of each text, which are its labels; the last token of the vocabulary
  /// stands in their places. 0: none is hidden.
  std::int64_t masked = 0;
  bool predicts_tokens() const { return next_token || masked > 0; }
  /// Labels of one sample.
  std::int64_t targets() const { return next_token ? sample[0] : masked > 0 ? masked : 1; }
};

/// The axes of one transformer block, for rules that choose its units (Co-S2P).
struct TransformerAxes {
  int block = -1;
  int heads = -1;    ///< a unit is a head of keys and values with the query heads that it serves
  int columns = -1;  ///< of queries and keys within a head; pairs of columns if they are rotated
  int value_columns = -1;   ///< within a head; the same axis as `columns` if qkv is fused
  int attention_rows = -1;  ///< positions of the stream that the attention writes: a subset axis
  int hidden = -1;          ///< neurons of the MLP
  int mlp_rows = -1;        ///< positions of the stream that the MLP writes: a subset axis
};

/// An axis whose units a mask may choose, and the block that computes them.
struct MaskedAxis {
  int axis = -1;
  int block = -1;
};

/// A classifier head and the number of blocks of Model::depth before it. The last one is the
/// model's head.
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
  /// The block of the projection head, before the classifier; -1: none. No rule cuts its outputs.
  int projection = -1;
  bool has_statistics = false;
  std::vector<int> depth;  ///< the blocks that a cut in depth drops from the end, in order
  /// Whether their outputs have the shape of their inputs, so that any of them can be left out.
  bool depth_keeps_shape = false;
  std::vector<Exit> exits;
  /// Whether the exits are independent networks that all read the samples (ensemble.h).
  bool is_ensemble = false;
  std::vector<MaskedAxis> masked;
  std::vector<TransformerAxes> transformer;  ///< its transformer blocks, if any

  bool is_exit(int block) const;
  /// The block of a submodel's answering classifier; -1 if it keeps none, as the bottom of a split
  /// model.
  int answer(const Submodel& submodel) const;
};

/// The blocks [first, last) of a submodel at the same widths: a bottom, a middle or a top. It keeps
/// classifiers only if the submodel's answering one is among these blocks.
Submodel part_of(const Model& model, const Submodel& submodel, int first, int last);

/// Runs the blocks that the submodel keeps. x: [batch, sample...] float, or the output of the block
/// before the first kept one. Returns the logits [batch, classes] of its last classifier, or the
/// output of its last block if it has none. Of an ensemble without Context::exits: the mean of the
/// kept members' logits.
at::Tensor forward(const Model& model, const Parameters& parameters, at::Tensor x,
                   Context& context);

/// The first `kept` blocks of Model::depth up to the last exit among them, with these exits; if
/// there is no exit among them, the first `kept` blocks and the head.
Submodel cut_depth(const Model& model, std::int64_t kept);

/// As cut_depth(), with the same number of exits, but begins `version` exits later, modulo the
/// number of possible beginnings, so that consecutive versions together keep every block. Equal to
/// cut_depth() if there is no exit within `kept`. Only for a model with depth_keeps_shape.
Submodel rolling_depth(const Model& model, std::int64_t kept, std::int64_t version);

/// The kind of samples of a family.
enum class Takes {
  numbers,
  images,
  signals,
  texts,       ///< with one class each, or with hidden tokens
  next_token,  ///< texts whose next token is predicted
  tokens,      ///< texts with one class each, or whose next token is predicted
};

/// A family: its options, and how to build a model of it for given data.
struct ModelFamily {
  std::function<void(OptionTable&)> declare;
  /// For data of the form that it takes; InputError if sizes do not fit.
  std::function<Model(const Config&, const DataShape&)> build;
  Takes takes = Takes::images;
  DataShape customary{{3, 32, 32}, 10};  ///< of the family's usual data
  /// Its defaults of options that several families have ("model.norm").
  std::vector<std::pair<std::string, std::string>> defaults{};
  /// Its options that are widths, which model.members divides; empty: it has no narrower networks.
  std::vector<std::string> widths{};
};
/// One file each in src/model.
ModelFamily mlp_family();
ModelFamily lenet_family();
ModelFamily cnn_family();
ModelFamily cnn1d_family();
ModelFamily vgg_family();
ModelFamily resnet_family();
ModelFamily vit_family();
ModelFamily gpt_family();
ModelFamily encoder_family();
ModelFamily lstm_family();
const Registry<ModelFamily>& model_families();
/// Declares "model.name", "model.norm", "model.groups", "model.classes", "model.members" and every
/// family's options ("model.hidden", ...).
void declare_model_options(OptionTable& table);
/// Sets the defaults of the family "model.name".
void set_model_defaults(Config& config);
/// Builds the model "model.name" with model.classes outputs (0: the classes of the data).
/// InputError if the family does not take the data, with the names of those that do, or if sizes do
/// not fit.
Model build_model(const Config& config, const DataShape& data);

}  // namespace espalier
