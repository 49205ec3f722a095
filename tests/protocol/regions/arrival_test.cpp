#include "espalier/protocol/regions/arrival.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "purpose.h"

namespace espalier::regions {
namespace {

constexpr std::int64_t kSize = 50;
constexpr std::int64_t kSteps = 5;
constexpr double kLr = 0.002;
const std::vector<Range> kTensors{{0, 20}, {20, 21}, {21, kSize}};

/// Values whose distances are those of training: 0.001 to 0.01.
struct Scene {
  std::vector<float> shared, sent, local;
};

Scene scene() {
  Stream stream(1, kTest, 21);
  Scene s;
  for (std::int64_t i = 0; i < kSize; ++i) {
    const double sent = stream.normal();
    s.sent.push_back(static_cast<float>(sent));
    s.shared.push_back(static_cast<float>(sent + 0.01 * stream.normal()));
    s.local.push_back(static_cast<float>(sent + 0.003 * stream.normal()));
  }
  return s;
}

at::Tensor doubles(const std::vector<float>& values) {
  return at::from_blob(const_cast<float*>(values.data()), {std::ssize(values)}, at::kFloat)
      .to(at::kDouble);
}

at::Tensor applied(const ArrivalSettings& settings, const Scene& s, std::int64_t steps = kSteps,
                   double lr = kLr) {
  std::vector<float> local = s.local;
  apply_arrival(settings, kTensors, s.shared, s.sent, local, steps, lr);
  return doubles(local);
}

at::Tensor rounded(const at::Tensor& values) { return values.to(at::kFloat).to(at::kDouble); }

ArrivalSettings compensate(Compensation compensation, double lambda) {
  return {.rule = Arrival::compensate, .compensation = compensation, .lambda = lambda};
}

TEST(Arrival, ReplaceTakesTheSharedCopy) {
  const Scene s = scene();
  EXPECT_TRUE(at::equal(applied({.rule = Arrival::replace}, s), doubles(s.shared)));
}

TEST(Arrival, BlendIsTheWeightedMean) {
  const Scene s = scene();
  for (const double alpha : {0.0, 0.25, 0.5, 1.0}) {
    EXPECT_TRUE(at::equal(applied({.rule = Arrival::blend, .alpha = alpha}, s),
                          rounded(alpha * doubles(s.local) + (1 - alpha) * doubles(s.shared))));
  }
}

TEST(Arrival, WithoutCorrectionOwnProgressIsAddedToTheSharedCopy) {
  const Scene s = scene();
  const at::Tensor expected = rounded(doubles(s.shared) + (doubles(s.local) - doubles(s.sent)));
  for (const auto kind : {Compensation::fixed, Compensation::lr_scaled, Compensation::adaptive}) {
    EXPECT_TRUE(at::equal(applied(compensate(kind, 0), s), expected));
    // Without a step there is no progress of which a gradient could be estimated.
    EXPECT_TRUE(at::equal(applied(compensate(kind, 0.5), s, 0), expected));
  }
}

// The formulas with the mean step g = (S - L) / steps, as the authors' code writes them. The values
// are doubles before one rounding to float; 3e-7 is half a unit in the last place of values up
// to 5.
TEST(Arrival, CorrectionsAreTheFormulasOfTheCode) {
  const Scene s = scene();
  const at::Tensor T = doubles(s.shared), S = doubles(s.sent), L = doubles(s.local);
  const double lambda = 700;  // large, so that the corrections show
  const at::Tensor g = (S - L) / kSteps;
  const at::Tensor fixed = T - kSteps * (g + lambda * g * g * (T - S));
  EXPECT_TRUE(at::allclose(applied(compensate(Compensation::fixed, lambda), s), fixed, 0, 3e-7));
  EXPECT_GT((fixed - (T - (S - L))).abs().max().item<double>(), 1e-5);
  // In units of gradients.
  const at::Tensor h = (S - L) / (kSteps * kLr);
  const at::Tensor scaled = T - kSteps * kLr * (h + 0.5 * h * h * (T - S));
  EXPECT_TRUE(at::allclose(applied(compensate(Compensation::lr_scaled, 0.5), s), scaled, 0, 3e-7));
  EXPECT_GT((scaled - (T - (S - L))).abs().max().item<double>(), 1e-6);
}

TEST(Arrival, AdaptiveCorrectionHasItsShareOfTheNormOfEachTensor) {
  Scene s = scene();
  for (float& value : s.local) value += 0.25F;  // so that 1e-8 is nothing beside the norm of C
  const at::Tensor T = doubles(s.shared), S = doubles(s.sent), L = doubles(s.local);
  for (const double lr : {kLr, 10 * kLr}) {
    const at::Tensor after = applied(compensate(Compensation::adaptive, 0.2), s, kSteps, lr);
    for (const Range& range : kTensors) {
      const auto part = [&](const at::Tensor& all) { return all.slice(0, range.begin, range.end); };
      const at::Tensor G = part(S - L);
      const at::Tensor correction = part(T) - G - part(after);
      EXPECT_NEAR(correction.norm().item<double>() / G.norm().item<double>(), 0.2, 1e-5);
      const at::Tensor C = G * G * part(T - S);
      EXPECT_TRUE(at::allclose(correction / correction.norm(), C / C.norm(), 0, 1e-5));
    }
  }
}

TEST(Arrival, NoProgressAndNoRateGiveNoCorrection) {
  Scene s = scene();
  for (const auto kind : {Compensation::lr_scaled, Compensation::adaptive}) {
    EXPECT_TRUE(at::equal(applied(compensate(kind, 0.5), s, kSteps, 0),
                          applied(compensate(kind, 0), s, kSteps, 0)));
  }
  s.local = s.sent;
  for (const auto kind : {Compensation::fixed, Compensation::lr_scaled, Compensation::adaptive}) {
    EXPECT_TRUE(at::equal(applied(compensate(kind, 0.5), s), doubles(s.shared)));
  }
}

}  // namespace
}  // namespace espalier::regions
