#include "espalier/model/pool.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "espalier/base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace espalier {
namespace {

// Position of the chosen value in its window, row by row; kNone if the output is zero.
constexpr std::uint8_t kNone = 4;

/// One row of outputs from input rows `top` and `bottom`; `chosen` may be null.
void forward_row(const float* top, const float* bottom, std::int64_t begin, std::int64_t end,
                 float* out, std::uint8_t* chosen) {
  for (std::int64_t j = begin; j < end; ++j) {
    const float window[4] = {top[2 * j], top[2 * j + 1], bottom[2 * j], bottom[2 * j + 1]};
    float best = window[0];
    std::uint8_t at = 0;
    for (std::uint8_t k = 1; k < 4; ++k) {
      const bool take = window[k] > best || std::isnan(window[k]);
      best = take ? window[k] : best;
      at = take ? k : at;
    }
    const bool none = best <= 0;
    // ReLU keeps -0, and the maximum of four zeros is the first one.
    out[j] = !none ? best : window[0] == 0 ? window[0] : 0.0F;
    if (chosen) chosen[j] = none ? kNone : at;
  }
}

/// Computes the gradients of two input rows from the gradients of one output row.
void backward_row(const float* gradient, const std::uint8_t* chosen, std::int64_t begin,
                  std::int64_t end, float* top, float* bottom) {
  for (std::int64_t j = begin; j < end; ++j) {
    // Added to zero, as an accumulated gradient is: -0 becomes 0.
    const float g = gradient[j] + 0.0F;
    top[2 * j] = chosen[j] == 0 ? g : 0.0F;
    top[2 * j + 1] = chosen[j] == 1 ? g : 0.0F;
    bottom[2 * j] = chosen[j] == 2 ? g : 0.0F;
    bottom[2 * j + 1] = chosen[j] == 3 ? g : 0.0F;
  }
}

#if defined(__x86_64__)
constexpr std::int64_t kLanes = 8;

// Moves pairs from the lane order, which a shuffle of two registers gives, into memory order.
__attribute__((target("avx2"))) inline __m256 in_order(__m256 v) {
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xD8));
}

__attribute__((target("avx2"))) inline void split(const float* row, __m256& even, __m256& odd) {
  const __m256 low = _mm256_loadu_ps(row);
  const __m256 high = _mm256_loadu_ps(row + kLanes);
  even = in_order(_mm256_shuffle_ps(low, high, 0x88));
  odd = in_order(_mm256_shuffle_ps(low, high, 0xDD));
}

__attribute__((target("avx2"))) inline void join(__m256 even, __m256 odd, float* row) {
  const __m256 low = _mm256_unpacklo_ps(even, odd);
  const __m256 high = _mm256_unpackhi_ps(even, odd);
  _mm256_storeu_ps(row, _mm256_permute2f128_ps(low, high, 0x20));
  _mm256_storeu_ps(row + kLanes, _mm256_permute2f128_ps(low, high, 0x31));
}

__attribute__((target("avx2"))) inline void consider(__m256 value, int position, __m256& best,
                                                     __m256& at) {
  const __m256 take = _mm256_or_ps(_mm256_cmp_ps(value, best, _CMP_GT_OQ),
                                   _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  best = _mm256_blendv_ps(best, value, take);
  at = _mm256_blendv_ps(at, _mm256_castsi256_ps(_mm256_set1_epi32(position)), take);
}

__attribute__((target("avx2"))) inline void forward_lanes(const float* top, const float* bottom,
                                                          float* out, std::uint8_t* chosen) {
  __m256 first, upper_odd, lower_even, lower_odd;
  split(top, first, upper_odd);
  split(bottom, lower_even, lower_odd);
  __m256 best = first;
  __m256 at = _mm256_setzero_ps();
  consider(upper_odd, 1, best, at);
  consider(lower_even, 2, best, at);
  consider(lower_odd, 3, best, at);
  const __m256 zero = _mm256_setzero_ps();
  const __m256 none = _mm256_cmp_ps(best, zero, _CMP_LE_OQ);
  const __m256 first_zero = _mm256_and_ps(first, _mm256_cmp_ps(first, zero, _CMP_EQ_OQ));
  _mm256_storeu_ps(out, _mm256_blendv_ps(best, first_zero, none));
  if (!chosen) return;
  at = _mm256_blendv_ps(at, _mm256_castsi256_ps(_mm256_set1_epi32(kNone)), none);
  const __m256i wide = _mm256_castps_si256(at);
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(chosen), _mm_packus_epi16(words, words));
}

__attribute__((target("avx2"))) inline __m256 where(__m256 g, __m256i at, int position) {
  return _mm256_and_ps(g, _mm256_castsi256_ps(_mm256_cmpeq_epi32(at, _mm256_set1_epi32(position))));
}

__attribute__((target("avx2"))) inline void backward_lanes(const float* gradient,
                                                           const std::uint8_t* chosen, float* top,
                                                           float* bottom) {
  const __m256 g = _mm256_add_ps(_mm256_loadu_ps(gradient), _mm256_setzero_ps());
  const __m256i at =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(chosen)));
  join(where(g, at, 0), where(g, at, 1), top);
  join(where(g, at, 2), where(g, at, 3), bottom);
}

// The last lanes of a row may overlap the lanes before them: they write the same values again.
__attribute__((target("avx2"))) void fast_forward_row(const float* top, const float* bottom,
                                                      std::int64_t width, float* out,
                                                      std::uint8_t* chosen) {
  if (width < kLanes) return forward_row(top, bottom, 0, width, out, chosen);
  for (std::int64_t j = 0; j < width; j += kLanes) {
    const std::int64_t at = std::min(j, width - kLanes);
    forward_lanes(top + 2 * at, bottom + 2 * at, out + at, chosen ? chosen + at : nullptr);
  }
}

__attribute__((target("avx2"))) void fast_backward_row(const float* gradient,
                                                       const std::uint8_t* chosen,
                                                       std::int64_t width, float* top,
                                                       float* bottom) {
  if (width < kLanes) return backward_row(gradient, chosen, 0, width, top, bottom);
  for (std::int64_t j = 0; j < width; j += kLanes) {
    const std::int64_t at = std::min(j, width - kLanes);
    backward_lanes(gradient + at, chosen + at, top + 2 * at, bottom + 2 * at);
  }
}

bool has_avx2() {
  static const bool supported = __builtin_cpu_supports("avx2");
  return supported;
}
#else
void fast_forward_row(const float* top, const float* bottom, std::int64_t width, float* out,
                      std::uint8_t* chosen) {
  forward_row(top, bottom, 0, width, out, chosen);
}
void fast_backward_row(const float* gradient, const std::uint8_t* chosen, std::int64_t width,
                       float* top, float* bottom) {
  backward_row(gradient, chosen, 0, width, top, bottom);
}
bool has_avx2() { return false; }
#endif

at::Tensor pool_forward(const at::Tensor& input, at::Tensor* chosen) {
  ESPALIER_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat && input.size(2) >= 2 &&
                     input.size(3) >= 2,
                 "pooling needs a float batch of feature maps of at least 2x2");
  const at::Tensor x = input.contiguous();
  const std::int64_t planes = x.size(0) * x.size(1);
  const std::int64_t height = x.size(2);
  const std::int64_t width = x.size(3);
  const std::int64_t out_height = height / 2;
  const std::int64_t out_width = width / 2;
  at::Tensor out = at::empty({x.size(0), x.size(1), out_height, out_width}, x.options());
  if (chosen) *chosen = at::empty(out.sizes(), x.options().dtype(at::kByte));
  const float* source = x.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  std::uint8_t* at = chosen ? chosen->mutable_data_ptr<std::uint8_t>() : nullptr;
  const bool fast = has_avx2();
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    for (std::int64_t i = 0; i < out_height; ++i) {
      const float* top = source + (plane * height + 2 * i) * width;
      if (fast) {
        fast_forward_row(top, top + width, out_width, to, at);
      } else {
        forward_row(top, top + width, 0, out_width, to, at);
      }
      to += out_width;
      if (at) at += out_width;
    }
  }
  return out;
}

at::Tensor pool_backward(const at::Tensor& output_gradient, const at::Tensor& chosen,
                         std::int64_t height, std::int64_t width) {
  const at::Tensor g = output_gradient.contiguous();
  const std::int64_t planes = g.size(0) * g.size(1);
  const std::int64_t out_height = g.size(2);
  const std::int64_t out_width = g.size(3);
  at::Tensor gradient = at::empty({g.size(0), g.size(1), height, width}, g.options());
  const float* from = g.const_data_ptr<float>();
  const std::uint8_t* at = chosen.const_data_ptr<std::uint8_t>();
  float* to = gradient.mutable_data_ptr<float>();
  const bool fast = has_avx2();
  for (std::int64_t plane = 0; plane < planes; ++plane) {
    float* rows = to + plane * height * width;
    for (std::int64_t i = 0; i < out_height; ++i) {
      float* top = rows + 2 * i * width;
      float* bottom = top + width;
      if (fast) {
        fast_backward_row(from, at, out_width, top, bottom);
      } else {
        backward_row(from, at, 0, out_width, top, bottom);
      }
      if (width % 2 != 0) top[width - 1] = bottom[width - 1] = 0;
      from += out_width;
      at += out_width;
    }
    if (height % 2 != 0) std::fill_n(rows + (height - 1) * width, width, 0.0F);
  }
  return gradient;
}

struct ReluMaxPool : torch::autograd::Function<ReluMaxPool> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x) {
    at::Tensor chosen;
    at::Tensor out = pool_forward(x, &chosen);
    context->save_for_backward({chosen});
    context->saved_data["height"] = x.size(2);
    context->saved_data["width"] = x.size(3);
    return out;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    return {pool_backward(gradients[0], context->get_saved_variables()[0],
                          context->saved_data["height"].toInt(),
                          context->saved_data["width"].toInt())};
  }
};

}  // namespace

at::Tensor relu_max_pool2(const at::Tensor& x) {
  if (c10::GradMode::is_enabled() && x.requires_grad()) return ReluMaxPool::apply(x);
  return pool_forward(x, nullptr);
}

}  // namespace espalier
