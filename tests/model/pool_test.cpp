#include "espalier/model/pool.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "espalier/base/random.h"
#include "purpose.h"
#include "same_bits.h"

namespace espalier {
namespace {

/// Values from a short list, so that most windows hold ties, zeros of both signs and negatives.
at::Tensor draw(std::vector<std::int64_t> shape, const std::vector<float>& values, Stream& stream) {
  at::Tensor t = at::empty(shape);
  float* data = t.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    data[i] = values.empty() ? static_cast<float>(stream.normal())
                             : values[static_cast<std::size_t>(
                                   stream.below(static_cast<std::int64_t>(values.size())))];
  }
  return t;
}

struct Result {
  at::Tensor out;
  at::Tensor gradient;
};

template <class Operation>
Result run(const at::Tensor& x, const at::Tensor& gradient, Operation operation) {
  at::Tensor input = x.clone().set_requires_grad(true);
  at::Tensor out = operation(input);
  out.backward(gradient);
  return {out.detach(), input.grad()};
}

void expect_equal_to_aten(const at::Tensor& x, Stream& stream) {
  const at::Tensor gradient = draw({x.size(0), x.size(1), x.size(2) / 2, x.size(3) / 2},
                                   {-1.5F, -0.0F, 0.0F, 2.25F, 0.125F}, stream);
  const Result ours = run(x, gradient, [](const at::Tensor& t) { return relu_max_pool2(t); });
  const Result theirs = run(x, gradient, [](const at::Tensor& t) {
    return at::max_pool2d(at::relu(t), {2, 2});
  });
  EXPECT_TRUE(same_bits(ours.out, theirs.out)) << x.sizes();
  EXPECT_TRUE(same_bits(ours.gradient, theirs.gradient)) << x.sizes();
}

TEST(ReluMaxPool, EqualsATenBitForBitAtAnySize) {
  Stream stream(1, kTest);
  for (std::int64_t height : {2, 3, 4, 7, 10, 28}) {
    for (std::int64_t width : {2, 3, 9, 10, 15, 16, 17, 28, 33, 50}) {
      expect_equal_to_aten(draw({3, 2, height, width}, {}, stream), stream);
    }
  }
}

TEST(ReluMaxPool, TiesZerosAndNegativesGoWhereATenPutsThem) {
  Stream stream(2, kTest);
  for (std::int64_t width : {5, 16, 21, 40}) {
    expect_equal_to_aten(draw({4, 3, 9, width}, {-1.0F, -0.0F, 0.0F, 1.0F, 2.0F}, stream), stream);
    expect_equal_to_aten(draw({4, 3, 9, width}, {-3.0F, -0.0F, 0.0F}, stream), stream);
  }
}

TEST(ReluMaxPool, NotANumberPassesOnAsInATen) {
  Stream stream(3, kTest);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (std::int64_t width : {6, 18}) {
    expect_equal_to_aten(
        draw({2, 3, 8, width}, {nan, -1.0F, 3.0F, infinity, -infinity, 0.0F}, stream), stream);
  }
}

TEST(ReluMaxPool, WithoutGradientsGivesTheSameValues) {
  Stream stream(4, kTest);
  const at::Tensor x = draw({2, 4, 11, 13}, {}, stream);
  const at::Tensor with = relu_max_pool2(x.clone().set_requires_grad(true));
  const at::Tensor without = relu_max_pool2(x);
  EXPECT_FALSE(without.requires_grad());
  EXPECT_TRUE(same_bits(with.detach(), without));
}

TEST(ReluMaxPool, TakesNonContiguousTensors) {
  Stream stream(5, kTest);
  expect_equal_to_aten(draw({2, 12, 10, 4}, {}, stream).permute({0, 3, 1, 2}).contiguous(), stream);
  const at::Tensor x = draw({2, 12, 10, 4}, {}, stream).permute({0, 3, 1, 2});
  EXPECT_TRUE(same_bits(relu_max_pool2(x), relu_max_pool2(x.contiguous())));
}

TEST(ReluMaxPool, RefusesMapsSmallerThanOneWindow) {
  EXPECT_THROW(relu_max_pool2(at::zeros({1, 1, 1, 4})), std::exception);
}

}  // namespace
}  // namespace espalier
