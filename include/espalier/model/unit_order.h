#pragma once
// One order of a model's units, from the least to the most important one. The units that a client
// leaves out are always the first of the order, so one number names its submodel, and of any two
// submodels one contains the other. Used by methods that remove single units of a layer (AdaptCL).

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/model/buffer_layout.h"
#include "espalier/model/model.h"

namespace espalier {

/// The places of an axis's kept units in the values of one entry: unit u has the values at
/// offset + (o x units + u) x inner + i, for o < outer and i < inner.
struct UnitPlaces {
  std::int64_t offset = 0;
  std::int64_t outer = 1;
  std::int64_t units = 0;
  std::int64_t inner = 1;
};
/// The entries of the submodel whose outputs are units of the axis: weights, and on request the
/// biases of their layers; no norms.
std::vector<UnitPlaces> incoming_weights(const BufferLayout& buffer_layout, int axis,
                                         bool with_biases = false);
/// The entry with the scales of the norm of an axis's units; -1 if there is none.
int scale_entry(const Layout& layout, int axis);

/// The axes whose units can be removed without a change to any other layer's outputs: hidden
/// neurons and heads of transformer blocks; else an axis that one layer makes and one layer reads,
/// beside classifiers (channels inside a residual block, but not those that blocks add to).
/// Ascending.
std::vector<int> prunable_axes(const Model& model);

/// What makes a unit important.
enum class Importance {
  scale,   ///< |scale of its norm|; L2 norm of its incoming weights if it has none
  norm,    ///< L1 norm of its incoming weights
  taylor,  ///< |sum of gradient x value| over its incoming weights (Molchanov et al. 2017)
  median,  ///< distance of its incoming weights to those of the layer's other units, summed (He et
           ///< al. 2019)
  index    ///< the first units of a layer are the most important ones
};

/// For each of prunable_axes(), a score of each unit, ascending in importance. Scores of different
/// axes can be compared: except scales, they are divided by the axis's mean. A unit that the
/// submodel lacks has a score below all others.
using UnitScores = std::vector<std::vector<double>>;
/// `values` and `gradient` (Importance::taylor only) are buffers of `buffer_layout`; of the
/// gradient only the ratios matter.
UnitScores unit_scores(const Model& model, const BufferLayout& buffer_layout,
                       std::span<const float> values, Importance importance,
                       std::span<const float> gradient = {});
/// Drawn uniformly.
UnitScores random_scores(const Model& model, Stream stream);
/// Each score replaced by its unit's rank in the axis / units of the axis, so that a prefix of the
/// order removes the same fraction of every layer.
UnitScores ranks_by_axis(UnitScores scores);

class UnitOrder {
 public:
  UnitOrder() = default;
  /// Ascending in score; of equal scores the last units of an axis come first. At least one unit
  /// and `floor` x units of each axis are never removed.
  UnitOrder(const Model& model, const UnitScores& scores, double floor);
  /// Number of units that can be removed.
  std::int64_t size() const { return static_cast<std::int64_t>(units_.size()); }
  /// The full model without the first `removed` units of the order.
  Submodel without(std::int64_t removed) const;
  /// Trainable values of without(removed), divided by those of the full model.
  double retention(std::int64_t removed) const;
  /// The smallest number to remove such that retention() is at most `retention`; size() if none is.
  std::int64_t removed_for(double retention) const;

  /// Axis and unit of each place of the order, for checkpoints; empty: no order.
  std::vector<std::int64_t> encode() const;
  static UnitOrder decode(const Model& model, std::span<const std::int64_t> code);

 private:
  struct Unit {
    int axis = 0;
    std::int64_t unit = 0;
  };
  std::shared_ptr<const Layout> layout_;
  std::vector<Unit> units_;
};

}  // namespace espalier
