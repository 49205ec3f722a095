#pragma once
// Optimisers as passes over one flat buffer. Their state is a flat buffer of the same geometry, so
// that it moves between submodels by the parameters' own plan.

#include <ATen/ATen.h>

#include "espalier/train/settings.h"

namespace espalier {

/// Stochastic gradient descent with momentum, Nesterov and weight decay, in the order of PyTorch's
/// SGD (dampening 0): g += wd w; v = m v + g (first step v = g); g = v or g + m v; w -= lr g.
class Sgd {
 public:
  Sgd(const TrainSettings& settings, double lr) : settings_(&settings), lr_(lr) {}

  /// Both flat and of equal length; `gradients` is overwritten.
  void step(const at::Tensor& weights, const at::Tensor& gradients);

  /// Flat buffers kept beside weights and gradients.
  static int copies(const TrainSettings& settings) { return settings.momentum > 0 ? 1 : 0; }

 private:
  const TrainSettings* settings_;
  double lr_;
  at::Tensor velocity_;
};

/// Scales the gradients so that their Euclidean norm is at most `limit` (PyTorch's
/// clip_grad_norm_).
void clip_gradients(const at::Tensor& gradients, double limit);

}  // namespace espalier
