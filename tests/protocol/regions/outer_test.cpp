#include "espalier/protocol/regions/outer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "purpose.h"

namespace espalier::regions {
namespace {

std::vector<float> start_values() {
  Stream stream(1, kTest, 11);
  std::vector<float> values(37);
  for (float& value : values) value = static_cast<float>(stream.normal());
  return values;
}

/// The mean of the regions' values, some way off the shared copy.
std::vector<double> mean_near(const std::vector<float>& shared, std::int64_t step) {
  Stream stream(1, kTest, 12, step);
  std::vector<double> mean;
  for (const float value : shared) {
    mean.push_back(static_cast<double>(value) + 0.05 * stream.normal());
  }
  return mean;
}

at::Tensor doubles(const std::vector<float>& values) {
  return at::from_blob(const_cast<float*>(values.data()), {std::ssize(values)}, at::kFloat)
      .to(at::kDouble);
}

at::Tensor doubles(const std::vector<double>& values) {
  return at::from_blob(const_cast<double*>(values.data()), {std::ssize(values)}, at::kDouble)
      .clone();
}

/// Compares `steps` steps with `reference`, which moves a tensor in double by a difference. The
/// state is kept in float, so each step may add a rounding error of a float.
template <class Reference>
void compare(const OuterSettings& settings, Reference reference) {
  std::vector<float> shared = start_values();
  OuterOptimizer outer(settings, std::ssize(shared));
  at::Tensor expected = doubles(shared);
  for (std::int64_t step = 0; step < 12; ++step) {
    const std::vector<double> mean = mean_near(shared, step);
    const at::Tensor difference = doubles(shared) - doubles(mean);
    reference(expected, difference);
    outer.step(shared, mean);
    ASSERT_LT((doubles(shared) - expected).abs().max().item<double>(),
              static_cast<double>(step + 1) * 4e-7)
        << step;
  }
}

TEST(OuterOptimizer, NesterovIsThatOfPyTorch) {
  OuterSettings settings{.kind = OuterKind::nesterov, .lr = 0.4, .momentum = 0.8};
  at::Tensor velocity;
  compare(settings, [&](at::Tensor& theta, const at::Tensor& gradient) {
    // torch.optim.SGD(lr=0.4, momentum=0.8, nesterov=True)
    velocity = velocity.defined() ? velocity * 0.8 + gradient : gradient.clone();
    theta = theta - 0.4 * (gradient + 0.8 * velocity);
  });
}

TEST(OuterOptimizer, SgdIsThatOfPyTorch) {
  compare({.kind = OuterKind::sgd, .lr = 0.3},
          [](at::Tensor& theta, const at::Tensor& gradient) { theta = theta - 0.3 * gradient; });
}

TEST(OuterOptimizer, AdamIsThatOfPyTorch) {
  const OuterSettings settings{
      .kind = OuterKind::adam, .lr = 0.3, .beta1 = 0.85, .beta2 = 0.97, .epsilon = 0.1};
  at::Tensor m = at::zeros({37}, at::kDouble), v = m.clone();
  int step = 0;
  compare(settings, [&](at::Tensor& theta, const at::Tensor& gradient) {
    // torch.optim.Adam(lr=0.3, betas=(0.85, 0.97), eps=0.1)
    ++step;
    m = at::lerp(m, gradient, 1 - 0.85);
    v = 0.97 * v + 0.03 * gradient * gradient;
    const at::Tensor root = v.sqrt() / std::sqrt(1 - std::pow(0.97, step)) + 0.1;
    theta = theta - 0.3 / (1 - std::pow(0.85, step)) * m / root;
  });
}

TEST(OuterOptimizer, RateOneWithoutMomentumTakesTheMeanExactly) {
  for (const OuterSettings& settings :
       {OuterSettings{.kind = OuterKind::sgd, .lr = 1},
        OuterSettings{.kind = OuterKind::nesterov, .lr = 1, .momentum = 0}}) {
    std::vector<float> shared = start_values();
    shared[3] = 1e30F;  // shared - (shared - mean) would lose the mean
    OuterOptimizer outer(settings, std::ssize(shared));
    for (std::int64_t step = 0; step < 5; ++step) {
      std::vector<double> mean = mean_near(shared, step);
      mean[3] = 1.0 / 3;
      outer.step(shared, mean);
      for (std::size_t i = 0; i < shared.size(); ++i) {
        ASSERT_EQ(shared[i], static_cast<float>(mean[i]));
      }
    }
  }
}

TEST(OuterOptimizer, RateZeroMovesNothing) {
  const std::vector<float> before = start_values();
  for (const OuterKind kind : {OuterKind::sgd, OuterKind::nesterov, OuterKind::adam}) {
    std::vector<float> shared = before;
    OuterOptimizer outer({.kind = kind, .lr = 0}, std::ssize(shared));
    outer.step(shared, mean_near(shared, 0));
    EXPECT_EQ(shared, before);
  }
}

// With a constant difference d the n-th step is lr d (1 + mu (1 - mu^n) / (1 - mu)): 1.9 lr d
// first, lr d / (1 - mu) in the end.
TEST(OuterOptimizer, GainWithAConstantDifferenceIsTheClosedForm) {
  for (const double lr : {0.7, 0.4}) {
    std::vector<float> shared{0};
    OuterOptimizer outer({.kind = OuterKind::nesterov, .lr = lr, .momentum = 0.9}, 1);
    for (int n = 1; n <= 150; ++n) {
      const double before = shared[0];
      outer.step(shared, std::vector<double>{before - 1});
      const double gain = before - static_cast<double>(shared[0]);
      ASSERT_NEAR(gain, lr * (1 + 0.9 * (1 - std::pow(0.9, n)) / 0.1), 2e-4) << n;
    }
  }
}

TEST(OuterOptimizer, GoesOnFromItsState) {
  for (const OuterKind kind : {OuterKind::sgd, OuterKind::nesterov, OuterKind::adam}) {
    std::vector<float> shared = start_values();
    OuterOptimizer first({.kind = kind}, std::ssize(shared));
    for (std::int64_t step = 0; step < 3; ++step) first.step(shared, mean_near(shared, step));
    ByteArchive saved;
    first.archive(saved);
    const Bytes bytes = saved.take();
    OuterOptimizer second({.kind = kind}, std::ssize(shared));
    ByteArchive loaded(bytes);
    second.archive(loaded);
    EXPECT_TRUE(loaded.at_end());
    std::vector<float> other = shared;
    const std::vector<double> mean = mean_near(shared, 3);
    first.step(shared, mean);
    second.step(other, mean);
    EXPECT_EQ(shared, other);
  }
}

}  // namespace
}  // namespace espalier::regions
