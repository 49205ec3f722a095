#include "optimizer_kernels.h"

#include <cmath>

#include "espalier/base/wide.h"

namespace espalier::kernels {
namespace {

ESPALIER_WIDE_FMA void sgd_plain(const Sgd& f, std::int64_t count, float* __restrict weight,
                                 const float* __restrict gradient) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = std::fma(weight[i], f.penalty, gradient[i]);
    weight[i] = std::fma(g, -f.lr, weight[i]);
  }
}

ESPALIER_WIDE_FMA void sgd_momentum(const Sgd& f, std::int64_t count, float* __restrict weight,
                                    const float* __restrict gradient, float* __restrict velocity) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = std::fma(weight[i], f.penalty, gradient[i]);
    velocity[i] = f.momentum * velocity[i] + g;
    weight[i] = std::fma(velocity[i], -f.lr, weight[i]);
  }
}

ESPALIER_WIDE_FMA void sgd_nesterov(const Sgd& f, std::int64_t count, float* __restrict weight,
                                    const float* __restrict gradient, float* __restrict velocity) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = std::fma(weight[i], f.penalty, gradient[i]);
    velocity[i] = f.momentum * velocity[i] + g;
    const float ahead = std::fma(velocity[i], f.momentum, g);
    weight[i] = std::fma(ahead, -f.lr, weight[i]);
  }
}

}  // namespace

void sgd(const Sgd& f, std::int64_t count, float* weight, const float* gradient, float* velocity) {
  if (velocity == nullptr) {
    sgd_plain(f, count, weight, gradient);
  } else if (f.nesterov) {
    sgd_nesterov(f, count, weight, gradient, velocity);
  } else {
    sgd_momentum(f, count, weight, gradient, velocity);
  }
}

ESPALIER_WIDE void adam(const Adam& f, std::int64_t count, float* __restrict weight,
                        const float* __restrict gradient, float* __restrict mean,
                        float* __restrict square) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] + f.penalty * weight[i];
    mean[i] = f.beta1 * mean[i] + f.one_minus_beta1 * g;
    square[i] = f.beta2 * square[i] + f.one_minus_beta2 * g * g;
    const float root = std::sqrt(square[i]) * f.root_correction + f.epsilon;
    weight[i] = f.weight_factor * weight[i] - f.step_size * mean[i] / root;
  }
}

ESPALIER_WIDE void adan(const Adan& f, std::int64_t count, float* __restrict weight,
                        const float* __restrict gradient, float* __restrict mean,
                        float* __restrict difference, float* __restrict square,
                        float* __restrict previous) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i];
    const float d = (g - previous[i]) * f.has_previous;
    const float ahead = g + f.beta2 * d;
    previous[i] = g;
    mean[i] = f.beta1 * mean[i] + f.one_minus_beta1 * g;
    difference[i] = f.beta2 * difference[i] + f.one_minus_beta2 * d;
    square[i] = f.beta3 * square[i] + f.one_minus_beta3 * ahead * ahead;
    const float root = std::sqrt(square[i]) * f.root_correction + f.epsilon;
    const float step = (f.mean_step * mean[i] + f.difference_step * difference[i]) / root;
    weight[i] = (weight[i] - step) * f.weight_factor;
  }
}

namespace {

ESPALIER_WIDE void rmsprop_plain(const RmsProp& f, std::int64_t count, float* __restrict weight,
                                 const float* __restrict gradient, float* __restrict square) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] + f.penalty * weight[i];
    square[i] = f.alpha * square[i] + f.one_minus_alpha * g * g;
    weight[i] -= f.lr * g / (std::sqrt(square[i]) + f.epsilon);
  }
}

ESPALIER_WIDE void rmsprop_momentum(const RmsProp& f, std::int64_t count, float* __restrict weight,
                                    const float* __restrict gradient, float* __restrict square,
                                    float* __restrict velocity) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] + f.penalty * weight[i];
    square[i] = f.alpha * square[i] + f.one_minus_alpha * g * g;
    velocity[i] = f.momentum * velocity[i] + g / (std::sqrt(square[i]) + f.epsilon);
    weight[i] -= f.lr * velocity[i];
  }
}

}  // namespace

void rmsprop(const RmsProp& f, std::int64_t count, float* weight, const float* gradient,
             float* square, float* velocity) {
  if (velocity == nullptr) {
    rmsprop_plain(f, count, weight, gradient, square);
  } else {
    rmsprop_momentum(f, count, weight, gradient, square, velocity);
  }
}

}  // namespace espalier::kernels
