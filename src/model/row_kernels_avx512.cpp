#include <immintrin.h>

#include "exponential.h"
#include "row_kernels.h"

namespace espalier {
namespace {

// 24 of 32 registers hold sums.
constexpr int kMostRows = 6;
constexpr int kOuts = 4;
constexpr int kSingleOuts = 8;

struct Lanes {
  __m512 all;
};
inline Lanes zeros() { return {_mm512_setzero_ps()}; }
inline Lanes all(float value) { return {_mm512_set1_ps(value)}; }
inline Lanes load(const float* from) { return {_mm512_loadu_ps(from)}; }
/// The first `count` numbers, then zeros.
inline Lanes load_part(const float* from, std::int64_t count) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1U), from)};
}
inline void store(float* to, Lanes lanes) { _mm512_storeu_ps(to, lanes.all); }
inline Lanes add(Lanes a, Lanes b) { return {_mm512_add_ps(a.all, b.all)}; }
/// a b + c, rounded once.
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return {_mm512_fmadd_ps(a.all, b.all, c.all)};
}
/// Halves are added until one number is left.
inline float total(Lanes lanes) {
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(lanes.all), 1));
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes.all), high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#include "row_kernels_body.h"

}  // namespace

const RowKernels kAvx512RowKernels{product, attend, rms_norm, layer_norm, silu_product, rotate};

}  // namespace espalier
