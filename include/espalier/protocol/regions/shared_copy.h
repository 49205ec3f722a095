#pragma once
// The shared copy of the model, which belongs to no region: it moves, fragment by fragment, by the
// mean of what the regions sent.

#include <optional>
#include <span>
#include <vector>

#include "espalier/protocol/regions/outer.h"
#include "espalier/protocol/regions/region.h"

namespace espalier::regions {

/// What a region sent of a fragment.
struct Contribution {
  const Bytes* values = nullptr;  ///< encoded
  double weight = 1;              ///< set to its part of all weights
  double norm = 0;  ///< set: L2 norm of its difference to the shared copy (or gradient)
};

class SharedCopy {
 public:
  /// `model`: before the first step, aligned. Experiment and settings must outlive it.
  SharedCopy(const Experiment& experiment, const RegionSettings& settings, OuterSettings outer,
             Parameters model);
  Parameters& model() { return model_; }
  /// All of its values, dense, and those of one fragment; gradients are zero.
  Bytes values() const;
  std::int64_t bytes() const {
    return model_.buffer_layout().count(Kind::trainable) * static_cast<std::int64_t>(sizeof(float));
  }
  Bytes unchanged(std::int64_t fragment) const;

  struct Merged {
    Bytes values;     ///< that the regions get: of the shared copy, or the mean gradient
    double norm = 0;  ///< L2 norm of the mean difference, or gradient
  };
  /// Merges the contributions to a fragment, in their order, which all sent after step `step`.
  /// NotFiniteError if the mean is not finite.
  Merged merge(std::int64_t fragment, std::int64_t step, std::span<Contribution> contributions);
  void archive(Archive& archive);

 private:
  std::vector<float> fragment_values(const Fragment& fragment) const;
  void step_along(const Fragment& fragment, std::int64_t step, std::span<const float> gradient);
  void archive_inner(Archive& archive);

  const Experiment& experiment_;
  const RegionSettings& settings_;
  Parameters model_;
  std::vector<OuterOptimizer> outer_;  // by fragment
  std::optional<Optimizer> inner_;     // if gradients are exchanged
};

}  // namespace espalier::regions
