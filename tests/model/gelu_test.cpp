#include "espalier/model/gelu.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "same_bits.h"

namespace espalier {
namespace {

struct Result {
  at::Tensor out;
  at::Tensor gradient;
};

Result with_gradient(const at::Tensor& x, const at::Tensor& gradient, bool tanh) {
  at::Tensor input = x.clone().set_requires_grad(true);
  at::Tensor out = gelu(input, tanh);
  out.backward(gradient);
  return {out.detach(), input.grad()};
}

TEST(Gelu, IsNearTheExactValueAndDerivative) {
  const at::Tensor x = at::cat({at::linspace(-100, 100, 100001), at::linspace(-6, 6, 100001)});
  for (const bool tanh : {false, true}) {
    const Result ours = with_gradient(x, at::ones_like(x), tanh);
    at::Tensor precise = x.to(at::kDouble).set_requires_grad(true);
    const at::Tensor expected = at::gelu(precise, tanh ? "tanh" : "none");
    expected.sum().backward();
    const auto error = [&](const at::Tensor& a, const at::Tensor& b) {
      return ((a.to(at::kDouble) - b).abs() / (1 + x.abs())).max().item<double>();
    };
    EXPECT_LE(error(ours.out, expected.detach()), 5e-7) << tanh;
    EXPECT_LE(error(ours.gradient, precise.grad()), 5e-7) << tanh;
  }
}

// The value of an element depends neither on its lane in a vector, nor on the remainder at the end,
// nor on the threads' parts.
TEST(Gelu, ValuesDependOnTheElementAlone) {
  const at::Tensor x = at::linspace(-8, 8, 40000);
  const at::Tensor gradient = at::linspace(-1, 2, 40000);
  for (const bool tanh : {false, true}) {
    const Result all = with_gradient(x, gradient, tanh);
    for (const std::int64_t start : {0, 1, 7, 1023, 1025, 39990}) {
      for (const std::int64_t count : {1, 3, 9, 17, 1024, 2047}) {
        const std::int64_t end = std::min<std::int64_t>(start + count, 40000);
        const Result part =
            with_gradient(x.slice(0, start, end), gradient.slice(0, start, end), tanh);
        EXPECT_TRUE(same_bits(part.out, all.out.slice(0, start, end))) << start << " " << count;
        EXPECT_TRUE(same_bits(part.gradient, all.gradient.slice(0, start, end)));
      }
    }
    EXPECT_TRUE(same_bits(gelu(x, tanh), all.out));  // nothing to train
    const at::Tensor across = x.view({200, 200}).t();
    EXPECT_TRUE(same_bits(gelu(across, tanh), all.out.view({200, 200}).t()));
  }
}

TEST(Gelu, PassesOnWhatIsNotANumber) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const at::Tensor x = at::tensor({std::nanf(""), kInfinity, 0.0F});
  for (const bool tanh : {false, true}) {
    const at::Tensor y = gelu(x, tanh);
    EXPECT_TRUE(std::isnan(y[0].item<float>()));
    EXPECT_EQ(y[1].item<float>(), kInfinity);
    EXPECT_EQ(y[2].item<float>(), 0);
  }
}

TEST(Gelu, OtherTypesAreATens) {
  const at::Tensor x = at::linspace(-3, 3, 100).to(at::kDouble);
  EXPECT_TRUE(at::equal(gelu(x, false), at::gelu(x)));
}

}  // namespace
}  // namespace espalier
