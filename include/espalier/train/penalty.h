#pragma once
// Sparse training: terms of the loss that shrink whole units, so that some can be cut. Group lasso
// over the weights of each unit (Yuan and Lin 2006), and the absolute scales of the norms of units
// (network slimming, Liu et al. 2017). Formulas and choices: docs/training.md.

#include <cstdint>
#include <vector>

#include "espalier/model/model.h"
#include "espalier/model/unit_order.h"
#include "espalier/train/settings.h"

namespace espalier {

/// Whether a penalty is on.
bool has_penalty(const TrainSettings& settings);

/// InputError if a penalty is on that has no values to act on in this model.
void refuse_idle_penalties(const TrainSettings& settings, const Model& model);

/// The penalties of one submodel. It knows the places of the values, in a few numbers for each
/// entry, and allocates no tensor.
class Penalty {
 public:
  /// A penalty that is off in `settings` has no values.
  Penalty(const TrainSettings& settings, const Model& model, const BufferLayout& buffer_layout);

  /// Adds the gradient of the penalties to `gradients`, both flat and of the trainable range. The
  /// same values on any number of threads and on every instruction set.
  void add_gradient(const at::Tensor& weights, const at::Tensor& gradients) const;

  /// Number of weights in groups, and of scales.
  std::int64_t grouped() const { return grouped_; }
  std::int64_t scales() const { return scales_; }
  /// Operations and moved bytes of add_gradient().
  std::int64_t flops() const { return 4 * grouped_ + 2 * scales_; }
  std::int64_t moved_bytes() const {
    return 3 * (grouped_ + scales_) * static_cast<std::int64_t>(sizeof(float));
  }

 private:
  /// The units of one axis, each with its weights.
  struct Group {
    std::vector<UnitPlaces> places;  // in the trainable range
    std::int64_t units = 0;
    std::int64_t size = 0;  // weights of a unit
  };

  void add_lasso(const Group& group, std::int64_t unit, const float* weights,
                 float* gradients) const;

  double lasso_;
  double l1_;
  std::vector<Group> groups_;
  std::vector<Range> scale_places_;
  std::int64_t grouped_ = 0;
  std::int64_t scales_ = 0;
};

}  // namespace espalier
