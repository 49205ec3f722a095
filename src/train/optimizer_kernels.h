#pragma once
// One step of each optimiser on the values [0, count) of flat buffers: every value is read and
// written once. Only explicit calls of std::fma are fused; all other operations, with roots and
// quotients, are rounded one by one. So the values do not depend on the instruction set.

#include <cstdint>

namespace espalier::kernels {

// Each struct holds the factors of one step, which are the same for all values.

struct Sgd {
  float lr;
  float penalty;  ///< L2: gradient += penalty x weight
  float momentum;
  bool nesterov;
};
/// Rounds at the same operations as ATen's passes. `velocity`: null without momentum.
void sgd(const Sgd& f, std::int64_t count, float* weight, const float* gradient, float* velocity);

struct Adam {
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float root_correction;  ///< 1 / sqrt(1 - beta2^t)
  float epsilon;
  float step_size;      ///< lr / (1 - beta1^t)
  float penalty;        ///< L2
  float weight_factor;  ///< decoupled: weight *= weight_factor first
};
void adam(const Adam& f, std::int64_t count, float* weight, const float* gradient, float* mean,
          float* square);

struct Adan {
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float beta3, one_minus_beta3;
  float root_correction;  ///< 1 / sqrt(1 - beta3^t)
  float epsilon;
  float mean_step;        ///< lr / (1 - beta1^t)
  float difference_step;  ///< lr beta2 / (1 - beta2^t)
  float weight_factor;    ///< 1 / (1 + lr lambda)
  float has_previous;     ///< 0 in the first step, which has no difference; then 1
};
void adan(const Adan& f, std::int64_t count, float* weight, const float* gradient, float* mean,
          float* difference, float* square, float* previous);

struct RmsProp {
  float alpha, one_minus_alpha;
  float epsilon;
  float lr;
  float penalty;
  float momentum;
};
/// `velocity`: null without momentum.
void rmsprop(const RmsProp& f, std::int64_t count, float* weight, const float* gradient,
             float* square, float* velocity);

}  // namespace espalier::kernels
