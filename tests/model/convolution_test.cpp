#include "espalier/model/convolution.h"

#include <gtest/gtest.h>

#include "family_fixture.h"

namespace espalier {
namespace {

struct Sizes {
  std::int64_t batch, in, height, width, out;
  ConvolutionShape shape;
};

std::string show(const Sizes& s) {
  return formatted("{}x{}x{}x{} to {}, kernel {} stride {} padding {} bias {} signal {}", s.batch,
                   s.in, s.height, s.width, s.out, s.shape.kernel, s.shape.stride, s.shape.padding,
                   s.shape.bias, s.shape.signal);
}

std::vector<Sizes> every_size() {
  std::vector<Sizes> all;
  for (const bool bias : {true, false}) {
    for (const std::int64_t stride : {1, 2}) {
      for (const std::int64_t kernel : {1, 3}) {
        for (const std::int64_t out : {3, 128}) {  // 128: more than twice the positions
          all.push_back({2, 5, 5, 6, out, {kernel, stride, kernel / 2, bias}});
        }
      }
    }
  }
  // Columns at every edge: no padding, more padding than the kernel reaches, a stride that skips
  // inputs, maps of one pixel, so that only the middle of the kernel is inside.
  all.push_back({2, 5, 5, 6, 128, {3, 1, 0, true}});
  all.push_back({2, 5, 5, 6, 256, {3, 2, 3, true}});
  all.push_back({2, 5, 5, 6, 128, {1, 3, 1, true}});
  all.push_back({2, 5, 7, 6, 128, {5, 3, 2, true}});
  all.push_back({3, 4, 1, 1, 40, {3, 1, 1, true}});
  all.push_back({3, 4, 1, 2, 40, {7, 2, 3, true}});
  // A single channel of data.
  all.push_back({3, 1, 9, 9, 4, {3, 1, 1, true}});
  all.push_back({3, 1, 9, 9, 4, {3, 1, 1, false}});
  // Signals: along the width only, also by columns and of a single channel.
  const auto signal = [&](std::int64_t in, std::int64_t width, std::int64_t out,
                          ConvolutionShape shape) {
    shape.signal = true;
    all.push_back({3, in, 1, width, out, shape});
  };
  signal(5, 21, 4, {3, 1, 0, true});
  signal(5, 21, 128, {7, 2, 3, true});
  signal(2, 9, 256, {4, 3, 2, false});
  signal(1, 90, 6, {20, 4, 0, true});
  return all;
}

TEST(Convolution, ValuesAndGradientsEqualDoublePrecision) {
  std::uint64_t key = 0;
  for (const Sizes& s : every_size()) {
    for (const bool first : {false, true}) {
      const auto leaf = [&](std::int64_t n, std::vector<std::int64_t> shape) {
        return images(n, std::move(shape), ++key).set_requires_grad(true);
      };
      at::Tensor x = leaf(s.batch, {s.in, s.height, s.width}).set_requires_grad(!first);
      std::vector<std::int64_t> taps{s.in, s.shape.kernel, s.shape.kernel};
      if (s.shape.signal) taps.pop_back();
      at::Tensor weight = leaf(s.out, taps);
      at::Tensor bias = leaf(s.out, {});
      const auto given = s.shape.bias ? std::optional(bias) : std::nullopt;
      // Gradients are added to the values in the buffer, as the flat buffer's views require.
      for (at::Tensor* t : {&weight, &bias}) t->mutable_grad() = at::ones_like(*t).detach();
      const at::Tensor y = convolve(x, weight, given, s.shape, first);
      ASSERT_EQ(y.size(2), s.shape.signal ? 1 : s.shape.outputs(s.height));
      ASSERT_EQ(y.size(3), s.shape.outputs(s.width));
      const at::Tensor direction = images(s.batch, y.sizes().slice(1).vec(), ++key);
      (y * direction).sum().backward();

      const auto twin = [](const at::Tensor& t) {
        return t.detach().to(at::kDouble).set_requires_grad(true);
      };
      at::Tensor x2 = twin(x), weight2 = twin(weight), bias2 = twin(bias);
      const at::Tensor given2 = s.shape.bias ? bias2 : at::Tensor();
      const std::int64_t stride = s.shape.stride, padding = s.shape.padding;
      const at::Tensor y2 =
          s.shape.signal ? at::conv1d(x2.squeeze(2), weight2, given2, stride, padding).unsqueeze(2)
                         : at::conv2d(x2, weight2, given2, {stride, stride}, {padding, padding});
      (y2 * direction).sum().backward();
      // At most 640 terms of order 1 a sum.
      const std::string what = show(s);
      const auto close = [&](const at::Tensor& ours, const at::Tensor& theirs) {
        EXPECT_LE((ours - theirs).abs().max().item<double>(),
                  1e-5 * std::max(1.0, theirs.abs().max().item<double>()))
            << what;
      };
      close(y.detach(), y2.detach());
      close(weight.grad() - 1, weight2.grad());
      if (s.shape.bias) close(bias.grad() - 1, bias2.grad());
      if (!first) close(x.grad(), x2.grad());
      c10::NoGradGuard no_grad;
      EXPECT_TRUE(same_bits(convolve(x, weight, given, s.shape, first), y)) << what;
    }
  }
}

TEST(Convolution, OfSignalsPassesGradientsThroughAFrozenWeight) {
  for (const std::int64_t batch : {3, 6}) {
    at::Tensor x = images(batch, {2, 1, 30}).set_requires_grad(true);
    const at::Tensor weight = images(4, {2, 5}, 1);
    ConvolutionShape shape{5, 2, 1, false};
    shape.signal = true;
    convolve(x, weight, std::nullopt, shape, false).square().sum().backward();
    at::Tensor x2 = x.detach().squeeze(2).to(at::kDouble).set_requires_grad(true);
    at::conv1d(x2, weight.to(at::kDouble), {}, 2, 1).square().sum().backward();
    expect_close(x.grad().squeeze(2).to(at::kDouble), x2.grad());
    EXPECT_FALSE(weight.grad().defined());
  }
}

TEST(Convolution, GivesTheWeightsGradientBackWhereItHasNoPlace) {
  const at::Tensor x = images(2, {5, 4, 4});
  for (const std::int64_t out : {4, 96}) {
    at::Tensor weight = images(out, {5, 3, 3}, 1).set_requires_grad(true);
    convolve(x, weight, std::nullopt, {3, 1, 1, false}, true).sum().backward();
    at::Tensor placed = weight.detach().clone().set_requires_grad(true);
    placed.mutable_grad() = at::zeros_like(weight).detach();
    convolve(x, placed, std::nullopt, {3, 1, 1, false}, true).sum().backward();
    expect_close(weight.grad(), placed.grad());
    EXPECT_GT(weight.grad().abs().max().item<double>(), 1);
  }
}

}  // namespace
}  // namespace espalier
