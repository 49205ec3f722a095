#include <immintrin.h>

#include "exponential.h"
#include "row_kernels.h"

namespace espalier {
namespace {

// 12 of 16 registers hold sums.
constexpr int kMostRows = 3;
constexpr int kOuts = 2;
constexpr int kSingleOuts = 4;

struct Lanes {
  __m256 low, high;
};
inline Lanes zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Lanes all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Lanes load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
/// The first `count` numbers, then zeros.
inline Lanes load_part(const float* from, std::int64_t count) {
  float numbers[16] = {};
  for (std::int64_t i = 0; i < count; ++i) numbers[i] = from[i];
  return load(numbers);
}
inline void store(float* to, Lanes lanes) {
  _mm256_storeu_ps(to, lanes.low);
  _mm256_storeu_ps(to + 8, lanes.high);
}
inline Lanes add(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
/// a b + c, rounded once.
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
/// Halves are added until one number is left.
inline float total(Lanes lanes) {
  const __m256 eight = _mm256_add_ps(lanes.low, lanes.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#include "row_kernels_body.h"

}  // namespace

const RowKernels kAvx2RowKernels{product, attend, rms_norm, layer_norm, silu_product, rotate};

}  // namespace espalier
