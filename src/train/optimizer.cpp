#include "espalier/train/optimizer.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "espalier/base/error.h"
#include "optimizer_kernels.h"

namespace espalier {
namespace {

// Fewest values per thread.
constexpr std::int64_t kGrain = 32768;

/// 1 - beta^t: the sum of the weights in a running mean that started at zero.
double bias_correction(double beta, std::int64_t steps) {
  return 1 - std::pow(beta, static_cast<double>(steps));
}

kernels::Sgd sgd_factors(const TrainSettings& s, double lr) {
  return {static_cast<float>(lr), static_cast<float>(s.weight_decay),
          static_cast<float>(s.momentum), s.nesterov};
}

kernels::Adam adam_factors(const TrainSettings& s, double lr, std::int64_t steps) {
  const bool decoupled = s.optimizer == OptimizerKind::adamw;
  kernels::Adam f;
  f.beta1 = static_cast<float>(s.beta1);
  f.one_minus_beta1 = static_cast<float>(1 - s.beta1);
  f.beta2 = static_cast<float>(s.beta2);
  f.one_minus_beta2 = static_cast<float>(1 - s.beta2);
  f.root_correction = static_cast<float>(1 / std::sqrt(bias_correction(s.beta2, steps)));
  f.epsilon = static_cast<float>(s.epsilon);
  f.step_size = static_cast<float>(lr / bias_correction(s.beta1, steps));
  f.penalty = decoupled ? 0 : static_cast<float>(s.weight_decay);
  f.weight_factor = decoupled ? static_cast<float>(1 - lr * s.weight_decay) : 1;
  return f;
}

kernels::Adan adan_factors(const TrainSettings& s, double lr, std::int64_t steps) {
  kernels::Adan f;
  f.beta1 = static_cast<float>(s.beta1);
  f.one_minus_beta1 = static_cast<float>(1 - s.beta1);
  f.beta2 = static_cast<float>(s.beta2);
  f.one_minus_beta2 = static_cast<float>(1 - s.beta2);
  f.beta3 = static_cast<float>(s.beta3);
  f.one_minus_beta3 = static_cast<float>(1 - s.beta3);
  f.root_correction = static_cast<float>(1 / std::sqrt(bias_correction(s.beta3, steps)));
  f.epsilon = static_cast<float>(s.epsilon);
  f.mean_step = static_cast<float>(lr / bias_correction(s.beta1, steps));
  f.difference_step = static_cast<float>(lr * s.beta2 / bias_correction(s.beta2, steps));
  f.weight_factor = static_cast<float>(1 / (1 + lr * s.weight_decay));
  f.has_previous = steps > 1 ? 1 : 0;
  return f;
}

kernels::RmsProp rmsprop_factors(const TrainSettings& s, double lr) {
  return {static_cast<float>(s.alpha),        static_cast<float>(1 - s.alpha),
          static_cast<float>(s.epsilon),      static_cast<float>(lr),
          static_cast<float>(s.weight_decay), static_cast<float>(s.momentum)};
}

}  // namespace

Optimizer::Optimizer(const TrainSettings& settings, std::int64_t size) : settings_(settings) {
  for (int i = 0; i < copies(settings); ++i) buffers_.push_back(at::zeros({size}, at::kFloat));
}

int Optimizer::copies(const TrainSettings& s) {
  switch (s.optimizer) {
    case OptimizerKind::sgd:
      return s.momentum > 0 ? 1 : 0;
    case OptimizerKind::adam:
    case OptimizerKind::adamw:
      return 2;
    case OptimizerKind::adan:
      return 4;
    case OptimizerKind::rmsprop:
      return s.momentum > 0 ? 2 : 1;
  }
  return 0;
}

void Optimizer::step(const at::Tensor& weights, const at::Tensor& gradients, double lr) {
  c10::NoGradGuard no_grad;
  ++steps_;
  const TrainSettings& s = settings_;
  float* const w = weights.data_ptr<float>();
  const float* const g = gradients.const_data_ptr<float>();
  float* b[4] = {};
  for (std::size_t i = 0; i < buffers_.size(); ++i) b[i] = buffers_[i].data_ptr<float>();
  const auto over_all = [&](auto&& kernel) {
    at::parallel_for(0, weights.numel(), kGrain, kernel);
  };
  switch (s.optimizer) {
    case OptimizerKind::sgd:
      over_all([&, f = sgd_factors(s, lr)](std::int64_t i, std::int64_t end) {
        kernels::sgd(f, end - i, w + i, g + i, b[0] == nullptr ? nullptr : b[0] + i);
      });
      break;
    case OptimizerKind::adam:
    case OptimizerKind::adamw:
      over_all([&, f = adam_factors(s, lr, steps_)](std::int64_t i, std::int64_t end) {
        kernels::adam(f, end - i, w + i, g + i, b[0] + i, b[1] + i);
      });
      break;
    case OptimizerKind::adan:
      over_all([&, f = adan_factors(s, lr, steps_)](std::int64_t i, std::int64_t end) {
        kernels::adan(f, end - i, w + i, g + i, b[0] + i, b[1] + i, b[2] + i, b[3] + i);
      });
      break;
    case OptimizerKind::rmsprop:
      over_all([&, f = rmsprop_factors(s, lr)](std::int64_t i, std::int64_t end) {
        kernels::rmsprop(f, end - i, w + i, g + i, b[0] + i, b[1] == nullptr ? nullptr : b[1] + i);
      });
      break;
  }
}

void Optimizer::archive(Archive& archive, PlanCache& plans, const BufferLayout& own) {
  constexpr unsigned kKind = 1u << static_cast<unsigned>(Kind::trainable);
  std::vector<std::int64_t> code = own.submodel().encode();
  archive.value("submodel", code);
  archive.value("steps", steps_);
  const Submodel stored = archive.loading() ? Submodel::decode(own.layout(), code) : own.submodel();
  const auto dense = plans.buffer_layout(stored, Packing::dense);
  std::vector<float> values(static_cast<std::size_t>(dense->kind_range(Kind::trainable).size()));
  for (at::Tensor& buffer : buffers_) {
    float* const data = buffer.data_ptr<float>();
    if (!archive.loading()) plans.plan(own, *dense, nullptr, kKind)->copy(data, values.data());
    archive.value("buffer", std::span<float>(values));
    if (archive.loading()) plans.plan(*dense, own, nullptr, kKind)->copy(values.data(), data);
  }
}

void clip_gradients(const at::Tensor& gradients, double limit) {
  c10::NoGradGuard no_grad;
  const double norm = at::linalg_vector_norm(gradients).item<double>();
  const double factor = limit / (norm + 1e-6);
  if (factor < 1) gradients.mul_(factor);
}

}  // namespace espalier
