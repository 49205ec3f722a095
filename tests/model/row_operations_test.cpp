// Row by row kernels against double precision, and both instruction sets against each other.

#include "espalier/model/row_operations.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "../../src/model/row_kernels.h"
#include "purpose.h"

namespace espalier {
namespace {

at::Tensor numbers(std::vector<std::int64_t> shape, std::int64_t key) {
  Stream stream(21, kTest, key);
  at::Tensor x = at::empty(shape);
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    x.data_ptr<float>()[i] = static_cast<float>(stream.normal());
  }
  return x;
}

std::vector<float> vector_of(const at::Tensor& x) {
  return {x.const_data_ptr<float>(), x.const_data_ptr<float>() + x.numel()};
}

// A sum of n products of normal numbers has the size sqrt(n) and an error of about sqrt(n) 2^-24 of
// its terms.
void expect_near(const at::Tensor& a, const at::Tensor& b, double tolerance) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LE((a.to(at::kDouble) - b).abs().max().item<double>(), tolerance);
}

TEST(RowOperations, ProductsAreThoseOfDoublePrecision) {
  for (const std::int64_t rows : {1, 2, 5, 6, 7, 19, 100}) {
    for (const std::int64_t in : {1, 15, 16, 17, 48, 100}) {
      for (const std::int64_t outs : {1, 3, 4, 33}) {
        const at::Tensor x = numbers({rows, in}, 1);
        const at::Tensor w = numbers({outs, in}, 2);
        const at::Tensor b = numbers({outs}, 3);
        const at::Tensor exact = x.to(at::kDouble).matmul(w.to(at::kDouble).t());
        expect_near(product_by_row(x, w, {}), exact, 1e-5);
        expect_near(product_by_row(x, w, b), exact + b, 1e-5);
      }
    }
  }
}

TEST(RowOperations, NormsAndSwigluAreThoseOfDoublePrecision) {
  for (const std::int64_t width : {1, 7, 16, 50}) {
    const at::Tensor x = numbers({9, width}, 4);
    const at::Tensor w = numbers({width}, 5);
    const at::Tensor b = numbers({width}, 6);
    const at::Tensor exact = x.to(at::kDouble);
    const at::Tensor square = exact.square().mean(-1, true) + 1e-3;
    expect_near(rms_norm_by_row(x, w, 1e-3), exact / square.sqrt() * w, 1e-5);
    const at::Tensor centred = exact - exact.mean(-1, true);
    const at::Tensor deviation = (centred.square().mean(-1, true) + 1e-3).sqrt();
    expect_near(layer_norm_by_row(x, w, b, 1e-3), centred / deviation * w + b, 1e-5);
    const at::Tensor gate = numbers({9, width}, 7) * 20;
    const at::Tensor wanted = gate.to(at::kDouble) * gate.to(at::kDouble).sigmoid() * exact;
    expect_near(silu_product_by_row(gate.clone(), x), wanted, 1e-4);
  }
}

TEST(RowOperations, BothInstructionSetsHaveTheSameBits) {
  if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "this machine has no AVX-512";
  const auto equal = [](const std::vector<float>& a, const std::vector<float>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  };
  for (const std::int64_t in : {5, 16, 83}) {
    for (const std::int64_t rows : {1, 2, 3, 8, 13}) {
      const at::Tensor x = numbers({rows, in}, 8);
      const at::Tensor w = numbers({11, in}, 9);
      std::vector<float> a(static_cast<std::size_t>(rows * 11));
      std::vector<float> b = a;
      for (const auto& [kernels, to] :
           {std::pair(&kAvx2RowKernels, &a), {&kAvx512RowKernels, &b}}) {
        kernels->product(x.const_data_ptr<float>(), rows, in, w.const_data_ptr<float>(), 11,
                         nullptr, to->data(), 11);
      }
      EXPECT_TRUE(equal(a, b));
    }
  }
  for (const std::int64_t length : {1, 40, 77}) {
    const at::Tensor q = numbers({3, 24}, 10);
    const at::Tensor k = numbers({length, 24}, 11);
    const at::Tensor v = numbers({length, 90}, 12);
    const at::Tensor w = numbers({90}, 13);
    std::vector<float> a, b;
    for (const auto& [kernels, to] : {std::pair(&kAvx2RowKernels, &a), {&kAvx512RowKernels, &b}}) {
      std::vector<float> scores(static_cast<std::size_t>(3 * length));
      to->resize(270 + 90 + 90 + 90);
      kernels->attend(q.const_data_ptr<float>(), 3, 24, k.const_data_ptr<float>(),
                      v.const_data_ptr<float>(), 90, length, 0.3F, scores.data(), to->data());
      const float* row = v.const_data_ptr<float>();
      const float* weight = w.const_data_ptr<float>();
      kernels->rms_norm(row, 90, weight, 1e-5F, to->data() + 270);
      kernels->layer_norm(row, 90, weight, weight, 1e-5F, to->data() + 360);
      std::vector<float> gate = vector_of(v[0]);
      kernels->silu_product(gate.data(), weight, 90);
      kernels->rotate(gate.data(), 3, 15, weight, weight + 15);
      std::copy(gate.begin(), gate.end(), to->begin() + 450);
    }
    EXPECT_TRUE(equal(a, b));
  }
}

TEST(RowOperations, AttentionIsThatOfDoublePrecision) {
  const std::int64_t batch = 2, heads = 2, group = 3, columns = 6, values = 70, length = 21;
  const at::Tensor q = numbers({batch, 5, heads * group * columns}, 14);
  const at::Tensor k = numbers({batch, heads, 30, columns}, 15);
  const at::Tensor v = numbers({batch, heads, 30, values}, 16);
  const HeadRows rows{q.const_data_ptr<float>(), q.size(2), heads * group, columns};
  const at::Tensor y = attend_by_row(rows, k, v, 5, length, 0.4);
  for (std::int64_t sample = 0; sample < batch; ++sample) {
    for (std::int64_t position = 0; position < 5; ++position) {
      for (std::int64_t head = 0; head < heads * group; ++head) {
        const std::int64_t seen = length - 5 + position + 1;
        const at::Tensor keys = k[sample][head / group].narrow(0, 0, seen).to(at::kDouble);
        const at::Tensor own = q[sample][position].narrow(0, head * columns, columns);
        const at::Tensor weights = (keys.matmul(own.to(at::kDouble)) * 0.4).softmax(0);
        const at::Tensor seen_values = v[sample][head / group].narrow(0, 0, seen);
        expect_near(y[sample][position].narrow(0, head * values, values),
                    weights.matmul(seen_values.to(at::kDouble)), 1e-5);
      }
    }
  }
}

}  // namespace
}  // namespace espalier
