#pragma once
// The shared copy of the model, which belongs to no region: it moves, fragment by fragment, by the
// mean of what the regions sent.

#include <optional>
#include <span>
#include <vector>

#include "espalier/protocol/regions/outer.h"
#include "espalier/protocol/regions/region.h"

namespace espalier::regions {

/// How what the regions sent of a fragment becomes one step of the shared copy.
struct MergeSettings {
  OuterSettings outer;
  /// The mean of directions with the mean length, for each tensor between the first and the last
  /// block (docs/methods/decoupled_diloco.md), instead of the mean.
  bool is_radial = false;
};
/// regions.merge, and those of declare_outer_options.
void declare_merge_options(OptionTable& table);
MergeSettings merge_settings(const Config& config);

/// What a region sent of a fragment.
struct Contribution {
  const Bytes* values = nullptr;  ///< encoded
  double weight = 1;              ///< set to its part of all weights
  double norm = 0;  ///< set: L2 norm of its difference to the shared copy (or gradient)
};

class SharedCopy {
 public:
  /// `model`: before the first step, aligned. Experiment and settings must outlive it.
  SharedCopy(const Experiment& experiment, const RegionSettings& settings, MergeSettings merge,
             Parameters model);
  Parameters& model() { return model_; }
  /// All of its values, dense, and those of one fragment; gradients are zero.
  Bytes values() const;
  std::int64_t bytes() const {
    return model_.buffer_layout().count(Kind::trainable) * static_cast<std::int64_t>(sizeof(float));
  }
  Bytes unchanged(std::int64_t fragment) const;

  struct Merged {
    /// What the regions get: values of the shared copy, its movement if each region has a base of
    /// its own, or the mean gradient.
    Bytes values;
    double norm = 0;  ///< L2 norm of the mean difference, or gradient
  };
  /// Merges the contributions to a fragment, in their order, which all sent after step `step`.
  /// NotFiniteError if the mean is not finite.
  Merged merge(std::int64_t fragment, std::int64_t step, std::span<Contribution> contributions);
  void archive(Archive& archive);

 private:
  std::vector<float> fragment_values(const Fragment& fragment) const;
  std::vector<float> base_of(std::int64_t fragment) const;
  std::vector<float> moved(std::int64_t fragment, std::int64_t step, const std::vector<float>& base,
                           const std::vector<double>& mean);
  void step_along(const Fragment& fragment, std::int64_t step, std::span<const float> gradient);
  void archive_inner(Archive& archive);

  const Experiment& experiment_;
  const RegionSettings& settings_;
  Parameters model_;
  bool is_radial_;
  std::vector<OuterOptimizer> outer_;      // by fragment
  std::vector<std::vector<float>> bases_;  // by fragment, if each region has its own: their mean
  std::optional<Optimizer> inner_;         // if gradients are exchanged
};

}  // namespace espalier::regions
