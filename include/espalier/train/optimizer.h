#pragma once
// Optimisers, each a single pass over flat buffers, with the same values on every instruction set.
// Their state is flat buffers of the weights' buffer layout, so that it moves between submodels by
// the parameters' own plan.

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/model/plan.h"
#include "espalier/train/settings.h"

namespace espalier {

class Optimizer {
 public:
  /// For `size` weights. Allocates its buffers at once, as zeros, in the current memory scope;
  /// `settings` must outlive it.
  Optimizer(const TrainSettings& settings, std::int64_t size);

  /// One step, in place. Both flat, of the optimiser's size. Where weight, gradient and state are
  /// zero, they stay so (padding).
  ///
  /// sgd, adam, adamw, rmsprop: PyTorch's formulas and defaults (dampening 0, not centred, no
  /// AMSGrad); sgd is PyTorch's to the last bit. adan: Xie et al. 2022 (arXiv 2208.06677),
  /// Algorithm 1 without restarts, with bias corrections and betas as shares that are kept (0.98,
  /// 0.92, 0.99), both as in the authors' code; where the paper writes beta, 1 - beta stands here.
  void step(const at::Tensor& weights, const at::Tensor& gradients, double lr);

  /// Flat buffers kept beside weights and gradients.
  static int copies(const TrainSettings& settings);

  /// State that outlives a task: steps done, and each buffer with the submodel that it belongs to,
  /// dense. `own`: the aligned buffer layout of the weights. When it is restored into another
  /// submodel, units of both take their values along, and new units start at zero.
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
