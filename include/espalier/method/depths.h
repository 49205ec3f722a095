#pragma once
// Depth by capability, shared by the methods whose weak clients hold the leading blocks only, up to
// a classifier. Source: specs, cos2p 2.1 and 6.2; submodel baselines 1.12 (DepthFL).

#include "espalier/method/widths.h"

namespace espalier::rounds {

/// The width options, and method.depth_power, method.rotate_depth.
void declare_depth_options(OptionTable& table);

class DepthLevels {
 public:
  /// Levels as in WidthLevels; `searches`: clients below full capability search in what they hold.
  DepthLevels(const RuleContext& context, bool searches);
  double width(const SendMoment& moment) const { return levels_.width(moment); }
  /// The blocks that a client of the moment's share holds at full width, with their classifiers:
  /// the leading floor(r^power D), or, where no client has the whole depth, as many from a place
  /// that moves on by one classifier with every version, so that every block is held by one of them
  /// (our reading).
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
