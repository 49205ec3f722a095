#pragma once
// The default merge: for every parameter the weighted mean over its holders, in cache-sized blocks
// with double accumulators that are rounded once. (In float, numerator over denominator with a
// single holder would change one value in seven.) Parameters that nobody held keep their value.

#include <span>
#include <vector>

#include "espalier/protocol/rounds/rules.h"

namespace espalier {

/// One holder's part in a weighted mean.
struct Holding {
  std::shared_ptr<const Plan> plan;  ///< from the update's geometry to the model's
  const float* values = nullptr;
  double weight = 1;
};

/// model[j] = sum_w weight_w values_w[j] / sum_w weight_w over the holders of j, added in the order
/// given.
void weighted_mean(Parameters& model, std::span<const Holding> holdings);

/// Holders of each trained parameter: the smallest number, and the mean.
Coverage coverage(const Experiment& experiment, const Geometry& model,
                  std::span<const Update> updates);

/// "average": weights are the clients' sample counts (method.weighting = samples) or equal
/// (uniform), each times (1 + staleness)^-method.staleness_power.
class AverageMerge : public MergeRule {
 public:
  AverageMerge(const Config& config, const Experiment& experiment);
  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override;

 protected:
  /// What of an update counts, beyond the submodel itself: all of it by default.
  virtual const Submodel* restriction(const Experiment&, const Update&) const { return nullptr; }

 private:
  bool by_samples_ = true;
  double staleness_power_ = 0;
};

/// method.weighting, method.staleness_power.
void declare_average_options(OptionTable& table);

}  // namespace espalier
