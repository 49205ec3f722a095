#include "espalier/model/row_operations.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "espalier/base/error.h"
#include "row_kernels.h"

namespace espalier {
namespace {

/// Numbers that a thread takes at least: less is done before another thread has begun.
constexpr std::int64_t kGrain = 32768;
/// Rows that are multiplied at once: with at most a few thousand columns they stay in the cache
/// while the weights pass.
constexpr std::int64_t kRowsAtOnce = 96;

const RowKernels& kernels() {
  static const bool has_avx512 = __builtin_cpu_supports("avx512f") != 0;
  return has_avx512 ? kAvx512RowKernels : kAvx2RowKernels;
}

std::int64_t grain(std::int64_t each) { return std::max<std::int64_t>(1, kGrain / each); }

/// Calls `work` with the rows of x and of the result, which has x's shape.
template <class Work>
at::Tensor for_each_row(const at::Tensor& x, const Work& work) {
  ESPALIER_CHECK(x.is_contiguous());
  at::Tensor out = at::empty(x.sizes(), x.options());
  const std::int64_t width = x.size(-1);
  const float* from = x.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel() / width, grain(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) work(from + row * width, to + row * width);
  });
  return out;
}

}  // namespace

at::Tensor product_by_row(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  ESPALIER_CHECK(x.is_contiguous() && weight.is_contiguous());
  const std::int64_t in = x.size(-1);
  const std::int64_t outs = weight.size(0);
  const std::int64_t rows = x.numel() / in;
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = outs;
  at::Tensor out = at::empty(shape, x.options());
  const float* from = x.const_data_ptr<float>();
  const float* w = weight.const_data_ptr<float>();
  const float* b = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  float* to = out.mutable_data_ptr<float>();
  constexpr std::int64_t kPart = 16;  // outs that stay with one thread
  at::parallel_for(0, (outs + kPart - 1) / kPart,
                   grain(kPart * in * std::min<std::int64_t>(rows, 8)),
                   [&](std::int64_t begin, std::int64_t end) {
                     const std::int64_t first = begin * kPart;
                     const std::int64_t count = std::min(end * kPart, outs) - first;
                     for (std::int64_t row = 0; row < rows; row += kRowsAtOnce) {
                       kernels().product(from + row * in, std::min(kRowsAtOnce, rows - row), in,
                                         w + first * in, count, b == nullptr ? nullptr : b + first,
                                         to + row * outs + first, outs);
                     }
                   });
  return out;
}

at::Tensor rms_norm_by_row(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  const float* w = weight.const_data_ptr<float>();
  return for_each_row(x, [&](const float* from, float* to) {
    kernels().rms_norm(from, x.size(-1), w, static_cast<float>(epsilon), to);
  });
}

at::Tensor layer_norm_by_row(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                             double epsilon) {
  const float* w = weight.const_data_ptr<float>();
  const float* b = bias.const_data_ptr<float>();
  return for_each_row(x, [&](const float* from, float* to) {
    kernels().layer_norm(from, x.size(-1), w, b, static_cast<float>(epsilon), to);
  });
}

at::Tensor silu_product_by_row(at::Tensor gate, const at::Tensor& up) {
  ESPALIER_CHECK(gate.is_contiguous() && up.is_contiguous() && gate.sizes() == up.sizes());
  float* g = gate.mutable_data_ptr<float>();
  const float* u = up.const_data_ptr<float>();
  at::parallel_for(0, gate.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    kernels().silu_product(g + begin, u + begin, end - begin);
  });
  return gate;
}

at::Tensor rotate_by_row_(at::Tensor x, const at::Tensor& table, std::int64_t rotated) {
  const std::int64_t positions = x.size(1);
  const std::int64_t pairs = table.size(2);
  ESPALIER_CHECK(x.is_contiguous() && table.size(1) == positions && table.stride(1) == pairs &&
                 table.stride(2) == 1 && rotated * 2 * pairs <= x.size(-1));
  const float* cosine = table.const_data_ptr<float>();
  const float* sine = cosine + table.stride(0);
  float* values = x.mutable_data_ptr<float>();
  for (std::int64_t row = 0; row < x.size(0) * positions; ++row) {
    const std::int64_t angle = row % positions * pairs;
    kernels().rotate(values + row * x.size(-1), rotated, pairs, cosine + angle, sine + angle);
  }
  return x;
}

at::Tensor attend_by_row(const HeadRows& queries, const at::Tensor& keys, const at::Tensor& values,
                         std::int64_t positions, std::int64_t length, double scale) {
  const std::int64_t batch = keys.size(0);
  const std::int64_t heads = keys.size(1);
  const std::int64_t capacity = keys.size(2);
  const std::int64_t columns = keys.size(3);
  const std::int64_t value_columns = values.size(3);
  const std::int64_t group = queries.count / heads;
  ESPALIER_CHECK(queries.columns == columns && group * heads == queries.count &&
                 positions <= length && length <= capacity);
  at::Tensor out = at::empty({batch, positions, queries.count * value_columns}, keys.options());
  const float* k = keys.const_data_ptr<float>();
  const float* v = values.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const std::int64_t each = length * group * (columns + value_columns);
  at::parallel_for(
      0, batch * heads * positions, grain(each), [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> scores(static_cast<std::size_t>(group * length));
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t head = i / positions % heads;
          const std::int64_t sample = i / (positions * heads);
          const std::int64_t row = sample * positions + i % positions;
          const std::int64_t place = (sample * heads + head) * capacity;
          kernels().attend(queries.data + row * queries.stride + head * group * columns, group,
                           columns, k + place * columns, v + place * value_columns, value_columns,
                           length - positions + i % positions + 1, static_cast<float>(scale),
                           scores.data(),
                           to + (row * queries.count + head * group) * value_columns);
        }
      });
  return out;
}

}  // namespace espalier
