#pragma once
// Depth by capability, common to the methods whose weak clients hold only the leading blocks, up to
// a classifier. Source: Li et al. 2024 (docs/methods/cos2p.md), Kim et al. 2023
// (docs/methods/depthfl.md).

#include "espalier/method/widths.h"

namespace espalier::rounds {

/// The width options, and method.depth_power, method.rotate_depth.
void declare_depth_options(OptionTable& table);

class DepthLevels {
 public:
  /// Levels as in WidthLevels; `searches`: clients below full capability search in their submodel.
  DepthLevels(const RuleContext& context, bool searches);
  double width(const SendMoment& moment) const { return levels_.width(moment); }
  /// The blocks that the client holds at full width, with their classifiers. For a level r they are
  /// the leading floor(r^power D). If no client has the whole depth, their begin moves by one
  /// classifier with every version, so that every block has a holder (our reading).
  Submodel blocks(const SendMoment& moment) const { return cut(width(moment), moment.version); }

 private:
  double depth_fraction(double width) const;
  Submodel cut(double width, std::int64_t version) const;

  const Model& model_;
  double power_;
  bool rotates_ = false;
  WidthLevels levels_;
};

}  // namespace espalier::rounds
