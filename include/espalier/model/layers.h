#pragma once
// The layers that families are lists of. Each declares its entries in a layout under the customary
// PyTorch names and gives two closures: the forward pass with plain ATen calls, at any width, and
// what it costs.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "espalier/model/model.h"

namespace espalier {

struct Layer {
  std::function<at::Tensor(const Parameters&, const at::Tensor&, Context&)> forward;
  std::function<void(CostTape&)> cost;
};

struct ConvolutionShape {
  std::int64_t kernel = 1;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
};

/// Declares `name`.weight [out, in, kernel, kernel] and `name`.bias [out]. In training with
/// Context::scaler the output is divided by the kept share of a cuttable `out` axis (HeteroFL).
/// `first`: the input is the data, so no gradient flows on.
Layer conv2d(Layout& layout, int block, const std::string& name, int in_axis, int out_axis,
             ConvolutionShape shape, bool first = false);

/// Declares `name`.weight [out, in x positions] and `name`.bias [out]; flattens its input to
/// [batch, in x positions]. Scaler and `first` as in conv2d.
Layer linear(Layout& layout, int block, const std::string& name, int in_axis,
             std::int64_t positions, int out_axis, bool first = false);

enum class NormKind { none, batch, group, layer };

/// Which norm follows each hidden layer of a family.
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

/// In place: the input must come from a layer that does not keep its output.
Layer relu();

/// ReLU, then 2x2 max-pooling with stride 2 (pool.h).
Layer relu_pool();

/// A block that runs `layers` one after the other. Its index must be `block` of the layout.
Block make_block(const Layout& layout, int block, std::vector<Layer> layers);

/// The entries of a list option as sizes. InputError where one is no whole number above 0.
std::vector<std::int64_t> whole_numbers(const Config& config, const std::string& key);

}  // namespace espalier
