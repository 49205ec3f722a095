#include "espalier/train/optimizer.h"

#include <c10/core/GradMode.h>

namespace espalier {

void Sgd::step(const at::Tensor& weights, const at::Tensor& gradients) {
  c10::NoGradGuard no_grad;
  if (settings_->weight_decay != 0) gradients.add_(weights, settings_->weight_decay);
  if (settings_->momentum == 0) {
    weights.add_(gradients, -lr_);
    return;
  }
  if (!velocity_.defined()) {
    velocity_ = gradients.clone();
  } else {
    velocity_.mul_(settings_->momentum).add_(gradients);
  }
  if (settings_->nesterov) {
    gradients.add_(velocity_, settings_->momentum);
    weights.add_(gradients, -lr_);
  } else {
    weights.add_(velocity_, -lr_);
  }
}

void clip_gradients(const at::Tensor& gradients, double limit) {
  c10::NoGradGuard no_grad;
  const double norm = at::linalg_vector_norm(gradients).item<double>();
  const double factor = limit / (norm + 1e-6);
  if (factor < 1) gradients.mul_(factor);
}

}  // namespace espalier
