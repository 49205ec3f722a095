#include "espalier/model/gelu.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "espalier/base/wide.h"
#include "exponential.h"

namespace espalier {
namespace {

/// Value and derivative of the exact form. With z = |x| / sqrt 2, 1 - erf(z) = q(1 / (1 + p z))
/// exp(-z^2), q of degree 5: Abramowitz and Stegun 7.1.26.
inline __attribute__((always_inline)) float exact(float x, float& derivative) {
  const float magnitude = x < 0 ? -x : x;
  const float e = exponential(-0.5F * x * x);
  const float t = 1.0F / (1.0F + 0.3275911F * 0.707106781F * magnitude);
  float q = 1.061405429F;
  q = q * t - 1.453152027F;
  q = q * t + 1.421413741F;
  q = q * t - 0.284496736F;
  q = q * t + 0.254829592F;
  const float tail = 0.5F * q * t * e;
  const float phi = x < 0 ? tail : 1.0F - tail;
  derivative = phi + x * e * 0.398942280F;
  return x * phi;
}

/// Value and derivative of the form with tanh: x s with s the logistic function of 2 u(x), as
/// (1 + tanh(u)) / 2 = s.
inline __attribute__((always_inline)) float by_tanh(float x, float& derivative) {
  constexpr float kTwice = 1.59576912F;  // 2 sqrt(2 / pi)
  const float square = x * x;
  const float u = kTwice * x * (1.0F + 0.044715F * square);
  // Of the two forms of s, the one whose exponential is at most 1.
  const float e = exponential(u < 0 ? u : -u);
  const float larger = 1.0F / (1.0F + e);
  const float smaller = e * larger;
  const float s = u < 0 ? smaller : larger;
  derivative = s + x * (smaller * larger) * kTwice * (1.0F + 3.0F * 0.044715F * square);
  return x * s;
}

ESPALIER_WIDEST void exact_values(const float* x, std::int64_t count, float* out,
                                  float* derivative) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = exact(x[i], derivative[i]);
}

ESPALIER_WIDEST void tanh_values(const float* x, std::int64_t count, float* out,
                                 float* derivative) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = by_tanh(x[i], derivative[i]);
}

/// `derivative`: undefined, or of x's shape and then written to. x is contiguous.
at::Tensor values(const at::Tensor& x, bool tanh, const at::Tensor& derivative) {
  at::Tensor out = at::empty(x.sizes(), x.options());
  const auto apply = tanh ? tanh_values : exact_values;
  const float* from = x.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  float* slope = derivative.defined() ? derivative.mutable_data_ptr<float>() : nullptr;
  constexpr std::int64_t kPart = 1024;
  constexpr std::int64_t kParts = 32;  // least elements of a thread
  const std::int64_t count = x.numel();
  at::parallel_for(
      0, (count + kPart - 1) / kPart, kParts, [&](std::int64_t begin, std::int64_t end) {
        std::array<float, kPart> unwanted;
        for (std::int64_t i = begin * kPart; i < std::min(end * kPart, count); i += kPart) {
          apply(from + i, std::min(kPart, count - i), to + i, slope ? slope + i : unwanted.data());
        }
      });
  return out;
}

struct Gelu : torch::autograd::Function<Gelu> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            bool tanh) {
    const at::Tensor x = input.contiguous();
    const at::Tensor derivative = at::empty(x.sizes(), x.options());
    at::Tensor out = values(x, tanh, derivative);
    context->save_for_backward({derivative});
    return out;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    return {context->get_saved_variables()[0].mul_(gradients[0]), at::Tensor()};
  }
};

}  // namespace

at::Tensor gelu(const at::Tensor& x, bool tanh) {
  if (!x.is_cpu() || x.scalar_type() != at::kFloat) return at::gelu(x, tanh ? "tanh" : "none");
  if (c10::GradMode::is_enabled() && x.requires_grad()) return Gelu::apply(x, tanh);
  return values(x.contiguous(), tanh, at::Tensor());
}

}  // namespace espalier
