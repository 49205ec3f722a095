#pragma once
// Loops behind row_operations.h on flat memory. Each result is a fixed sequence of operations on
// its own row: products and sums have 16 partial sums, which are added in one order. So a row has
// the same bits beside any other rows, and on AVX2 and AVX-512 (one file for each).

#include <cstdint>

namespace espalier {

struct RowKernels {
  /// y[r * y_stride + o] = sum over k of x[r * in + k] w[o * in + k], plus bias[o] unless it is
  /// null.
  void (*product)(const float* x, std::int64_t rows, std::int64_t in, const float* w,
                  std::int64_t outs, const float* bias, float* y, std::int64_t y_stride);
  /// Attention of `heads` queries [heads, columns] of one position, which share keys [length,
  /// columns] and values [length, value_columns]: out [heads, value_columns]. `scores`: memory for
  /// heads x length numbers.
  void (*attend)(const float* queries, std::int64_t heads, std::int64_t columns, const float* keys,
                 const float* values, std::int64_t value_columns, std::int64_t length, float scale,
                 float* scores, float* out);
  /// One row divided by its root mean square, times `weight`.
  void (*rms_norm)(const float* x, std::int64_t width, const float* weight, float epsilon,
                   float* out);
  /// One row without its mean, divided by its deviation, times `weight`, plus `bias`.
  void (*layer_norm)(const float* x, std::int64_t width, const float* weight, const float* bias,
                     float epsilon, float* out);
  /// gate := silu(gate) up.
  void (*silu_product)(float* gate, const float* up, std::int64_t count);
  /// Rotates the pairs of `heads` heads of one row, each with the first values of all its pairs and
  /// then the second ones.
  void (*rotate)(float* x, std::int64_t heads, std::int64_t pairs, const float* cosine,
                 const float* sine);
};

extern const RowKernels kAvx2RowKernels;
extern const RowKernels kAvx512RowKernels;

}  // namespace espalier
