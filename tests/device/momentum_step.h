#pragma once
// The update that tests of costs make after a backward pass.

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "espalier/model/parameters.h"

namespace espalier {

/// SGD with momentum; the first step makes `velocity`.
inline void momentum_step(Parameters& p, at::Tensor& velocity) {
  c10::NoGradGuard no_grad;
  if (velocity.defined()) {
    velocity.mul_(0.9).add_(p.gradients());
  } else {
    velocity = p.gradients().clone();
  }
  p.trainable().add_(velocity, -0.01);
}

}  // namespace espalier
