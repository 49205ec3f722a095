#pragma once
// The layers of the families. Each declares its entries in a layout under the customary PyTorch
// names and gives two closures: the forward pass with plain ATen calls, at any width, and its cost.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "espalier/model/convolution.h"
#include "espalier/model/model.h"

namespace espalier {

struct Layer {
  std::function<at::Tensor(const Parameters&, const at::Tensor&, Context&)> forward;
  std::function<void(CostTape&)> cost;
};

/// Adds the cost of a layer whose caller holds its input until its output is there, also if nothing
/// saves the input because all is frozen.
void add_cost(CostTape& tape, const Layer& layer);

/// Declares `name`.weight [out, in, kernel, kernel] (of a signal [out, in, kernel]) and, unless the
/// shape has none, `name`.bias [out]. In training with Context::scaler the output is divided by the
/// kept fraction of a cuttable `out` axis (HeteroFL). `first`: the input is the data, so it needs
/// no gradient.
Layer convolution(Layout& layout, int block, const std::string& name, int in_axis, int out_axis,
                  ConvolutionShape shape, bool first = false);

/// Signals [batch, channels, length] as images of height 1.
Layer signal_as_image();

/// Declares `name`.weight [out, in x positions] and `name`.bias [out]; flattens its input to
/// [batch, in x positions]. Scaler and `first` as in convolution().
Layer linear(Layout& layout, int block, const std::string& name, int in_axis,
             std::int64_t positions, int out_axis, bool first = false);

enum class NormKind { none, batch, group, layer };

/// The norm after each hidden layer of a family.
struct NormChoice {
  NormKind kind = NormKind::none;
  std::int64_t groups = 4;  ///< group norm
};
/// Reads "model.norm" and "model.groups".
NormChoice norm_choice(const Config& config);

/// Declares `name`.weight and `name`.bias [axis]; batch norm also the statistic entries
/// `name`.running_mean and `name`.running_var. Input [batch, axis, ...]. Batch norm: batch
/// statistics in training and calibration (which hands out the batch's mean and unbiased variance),
/// the statistic entries in evaluation; no running average. Group norm: the most groups that divide
/// the kept width, at most `groups`. Layer norm: over all channels and positions, weights per
/// channel.
Layer norm(NormChoice choice, Layout& layout, int block, const std::string& name, int axis);

/// Appends the chosen norm; nothing for NormKind::none.
void add_norm(std::vector<Layer>& layers, NormChoice choice, Layout& layout, int block,
              const std::string& name, int axis);

/// In place: the input must come from a layer that does not save its output.
Layer relu();

/// ReLU, then 2x2 max-pooling with stride 2 (pool.h).
Layer relu_pool();

/// The largest value in each place of the window (kernel, stride, padding, signal).
Layer max_pool(ConvolutionShape window);

/// The mean over all positions: [batch, channels, height, width] becomes [batch, channels].
Layer global_pool();

/// body(x) + shortcut(x); an empty shortcut is x itself. In place: the body's last layer must not
/// save its output (a convolution or a norm).
Layer residual(std::vector<Layer> body, std::vector<Layer> shortcut);

/// y with each position of its dimension `along`, which is `out`, multiplied by the gate of its
/// unit; y itself if no axis of `out` has gates (Context::gates).
at::Tensor gated(const at::Tensor& y, const Dimension& out, std::int64_t along,
                 const Context& context);
/// Adds the cost of gated(); y is the tape's current node.
void add_gate_cost(CostTape& tape, const Dimension& out);
/// gated() as a layer, for units along dimension 1.
Layer gate(int axis);

/// A block that runs `layers` one after the other. Its index must be `block` of the layout.
Block make_block(const Layout& layout, int block, std::vector<Layer> layers);

/// The layers of a block that is made, by its index in the layout.
using LayersOf = std::function<std::vector<Layer>(int block)>;

/// Appends the blocks at the end of a family: with model.projection a block "projection" of
/// `before` (if given), a linear layer as wide as the features, ReLU and a linear layer to
/// model.projection outputs, then "head" with the linear layer `name` to the classes; else "head"
/// with `before` and that layer. The features are `features` x `positions`. Makes Model::class_axis
/// unless it is made. Returns the block of the head.
int add_head(Model& model, Layout& layout, const Config& config, const LayersOf& before,
             const std::string& name, int features, std::int64_t positions = 1, bool first = false);

/// The name of the classifier after the last block of Model::depth, if there is one: the k-th of
/// `exits` classifiers follows block floor(k depth / exits), and the last is the head.
std::optional<std::string> exit_due(const Model& model, std::int64_t depth, std::int64_t exits);

/// For convolutions whose depth can be cut if they have several `exits`: appends `block`, whose
/// outputs are `out`, to the `depth` blocks of Model::depth, and the classifier after it, if there
/// is one: the mean over all positions, then a linear layer.
void end_stage(Model& model, Layout& layout, int block, int out, std::int64_t depth,
               std::int64_t exits);

/// Declares "model.depth" for vgg, resnet and the transformers.
void declare_depth(OptionTable& table);
/// Declares "model.depth" and "model.width" for vgg and resnet.
void declare_depth_and_width(OptionTable& table);

}  // namespace espalier
