#pragma once
// Optimisers. A step is a single pass over flat buffers and gives the same values on every
// instruction set. The state has the buffer layout of the weights, so the plans of the parameters
// also move it between submodels.

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/model/plan.h"
#include "espalier/train/settings.h"

namespace espalier {

class Optimizer {
 public:
  /// For `size` weights. Allocates its buffers, set to zero, in the current memory scope.
  /// `settings` must outlive it.
  Optimizer(const TrainSettings& settings, std::int64_t size);

  /// One step, in place. Both tensors are flat and have the optimiser's size. If weight, gradient
  /// and state of a value are zero (padding), they stay zero.
  ///
  /// sgd, adam, adamw, rmsprop: PyTorch's formulas and defaults (dampening 0, not centred, no
  /// AMSGrad); sgd is PyTorch's to the last bit. adan: Xie et al. 2022 (arXiv 2208.06677),
  /// Algorithm 1 without restarts, with bias corrections as in the authors' code. As there, a beta
  /// is the fraction that is kept (0.98, 0.92, 0.99): ours is 1 - beta of the paper.
  void step(const at::Tensor& weights, const at::Tensor& gradients, double lr);

  /// Number of flat buffers beside weights and gradients.
  static int copies(const TrainSettings& settings);

  /// State that outlives a task: the number of steps, the submodel, and each buffer, dense. `own`:
  /// the aligned buffer layout of the weights. If the state is restored into another submodel,
  /// units of both submodels keep their values, and new units start at zero.
  void archive(Archive& archive, PlanCache& plans, const BufferLayout& own);

 private:
  const TrainSettings& settings_;
  std::vector<at::Tensor> buffers_;
  std::int64_t steps_ = 0;
};

/// Scales the gradients so that their Euclidean norm is at most `limit` (PyTorch's
/// clip_grad_norm_).
void clip_gradients(const at::Tensor& gradients, double limit);

}  // namespace espalier
