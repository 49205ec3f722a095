#pragma once
// The outer optimiser: it moves the shared copy of a fragment by the mean difference of the
// regions, as if that difference were a gradient (Douillard et al. 2023, DiLoCo;
// docs/methods/diloco.md).

#include <span>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/config/config.h"

namespace espalier::regions {

enum class OuterKind { sgd, nesterov, adam };

struct OuterSettings {
  OuterKind kind = OuterKind::nesterov;
  double lr = 0.7;  ///< rho
  double momentum = 0.9;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 0.1;  ///< adam
};
/// regions.outer, regions.outer_lr, regions.outer_momentum, regions.outer_beta1, ...
void declare_outer_options(OptionTable& table);
OuterSettings outer_settings(const Config& config);

/// The outer optimiser of one fragment.
class OuterOptimizer {
 public:
  OuterOptimizer(OuterSettings settings, std::int64_t values);
  /// `shared`: the fragment's shared copy, in place. `mean`: of the regions' values, so that the
  /// difference is shared - mean:
  ///   sgd        shared - lr difference
  ///   nesterov   v = momentum v + difference;  shared - lr (difference + momentum v)
  ///   adam       PyTorch's, with the difference as gradient
  /// In double, rounded once. With lr 1 and no momentum the result is the mean, rounded.
  void step(std::span<float> shared, std::span<const double> mean);
  static int copies(OuterKind kind) {
    return kind == OuterKind::adam ? 2 : kind == OuterKind::nesterov ? 1 : 0;
  }
  void archive(Archive& archive);

 private:
  OuterSettings settings_;
  std::int64_t steps_ = 0;
  std::vector<float> first_, second_;
};

}  // namespace espalier::regions
