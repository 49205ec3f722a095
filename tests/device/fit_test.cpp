// Rates that are fitted to measured steps: from times of a known class the fit must find that
// class's predictions, even if some measurements are wrong.

#include "espalier/device/fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace espalier {
namespace {

std::vector<TrainingCost> costs_of(const std::string& name, const DataShape& shape,
                                   std::vector<std::pair<std::string, std::string>> settings,
                                   const std::vector<std::int64_t>& batches) {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  config.set("model.name", name, "test");
  for (const auto& [key, value] : settings) config.set("model." + key, value, "test");
  set_model_defaults(config);
  const Model model = build_model(config, shape);
  std::vector<TrainingCost> costs;
  for (const std::int64_t batch : batches) {
    costs.push_back(training_cost(model, Submodel::full(*model.layout), batch, 0));
  }
  return costs;
}

/// Families of every kind of work, at two widths and some batches.
std::vector<TrainingCost> many_costs(const std::vector<std::int64_t>& batches) {
  const DataShape image{{3, 32, 32}, 10};
  const DataShape text{{64}, 50, 50, true};
  std::vector<TrainingCost> all;
  const auto add = [&](const std::vector<TrainingCost>& more) {
    all.insert(all.end(), more.begin(), more.end());
  };
  for (const char* width : {"8", "32"}) {
    add(costs_of("vgg", image, {{"width", width}}, batches));
    add(costs_of("resnet", image, {{"width", width}}, batches));
    add(costs_of("mlp", image, {{"hidden", std::string(width) + "0"}}, batches));
    add(costs_of("gpt", text, {{"embed", std::string(width) + "0"}, {"heads", "4"}}, batches));
  }
  add(costs_of("lenet", {{1, 28, 28}, 10}, {}, batches));
  add(costs_of("vit", image, {{"depth", "2"}}, batches));
  return all;
}

const DeviceClass kTrue{.name = "true",
                        .gflops = 3,
                        .gflops_conv = 90,
                        .gflops_matmul = 120,
                        .gflops_attention = 40,
                        .memory_gbps = 20,
                        .overhead_us = 35};

std::vector<MeasuredStep> measured(const DeviceClass& device,
                                   const std::vector<TrainingCost>& costs) {
  std::vector<MeasuredStep> steps;
  for (const TrainingCost& cost : costs) {
    steps.push_back({cost, 1e-9 * step_nanoseconds(device, cost)});
  }
  return steps;
}

/// Largest |predicted / true - 1| on other batches than those fitted.
double largest_error(const DeviceClass& device, const DeviceClass& truth) {
  double largest = 0;
  for (const TrainingCost& cost : many_costs({3, 12, 48})) {
    const double ratio = step_nanoseconds(device, cost) / step_nanoseconds(truth, cost);
    largest = std::max(largest, std::abs(ratio - 1));
  }
  return largest;
}

TEST(Fit, LeadsBackToTheClassThatMadeTheTimes) {
  const DeviceClass fitted = fit_rates(measured(kTrue, many_costs({2, 8, 32})));
  EXPECT_LT(largest_error(fitted, kTrue), 0.02);
  EXPECT_NEAR(fitted.gflops_conv, kTrue.gflops_conv, 0.05 * kTrue.gflops_conv);
  EXPECT_NEAR(fitted.gflops_matmul, kTrue.gflops_matmul, 0.05 * kTrue.gflops_matmul);
  EXPECT_NEAR(fitted.overhead_us, kTrue.overhead_us, 0.05 * kTrue.overhead_us);
}

TEST(Fit, DoesNotDependOnTheMachinesSpeed) {
  // A microcontroller and an accelerator: all times multiplied by one factor.
  for (const double factor : {1e-4, 1e3}) {
    std::vector<MeasuredStep> steps = measured(kTrue, many_costs({2, 8, 32}));
    for (MeasuredStep& step : steps) step.seconds /= factor;
    DeviceClass expected = kTrue;
    for (double DeviceClass::*rate :
         {&DeviceClass::gflops, &DeviceClass::gflops_conv, &DeviceClass::gflops_matmul,
          &DeviceClass::gflops_attention, &DeviceClass::memory_gbps}) {
      expected.*rate *= factor;
    }
    expected.overhead_us /= factor;
    EXPECT_LT(largest_error(fit_rates(steps), expected), 0.02) << factor;
  }
}

TEST(Fit, AFewWrongMeasurementsDoNotSpoilIt) {
  std::vector<MeasuredStep> steps = measured(kTrue, many_costs({2, 8, 32}));
  for (std::size_t i = 0; i < steps.size(); i += 7) steps[i].seconds *= 1.8;
  EXPECT_LT(largest_error(fit_rates(steps), kTrue), 0.1);
}

TEST(Fit, RatesArePositiveAndAttentionIsNoFasterThanProducts) {
  DeviceClass odd = kTrue;
  odd.gflops_attention = 1e5;
  odd.overhead_us = 0;
  odd.memory_gbps = 0;
  const DeviceClass fitted = fit_rates(measured(odd, many_costs({2, 8, 32})));
  EXPECT_LE(fitted.gflops_attention, fitted.gflops_matmul);
  for (const double rate :
       {fitted.gflops, fitted.gflops_conv, fitted.gflops_matmul, fitted.gflops_attention}) {
    EXPECT_GT(rate, 0);
    EXPECT_TRUE(std::isfinite(rate));
  }
  EXPECT_GE(fitted.overhead_us, 0);
}

TEST(Fit, WhatWasNotMeasuredIsLeftToTheGeneralRate) {
  const auto costs = costs_of("mlp", {{1, 28, 28}, 10}, {}, {4, 16, 64});
  const DeviceClass fitted = fit_rates(measured(kTrue, costs));
  EXPECT_EQ(fitted.gflops_conv, 0);
  EXPECT_EQ(fitted.gflops_attention, 0);
  EXPECT_GT(fitted.gflops_matmul, 0);
}

TEST(Agreement, IsTheClosedForm) {
  const std::vector<double> measured{1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(agreement(measured, measured).median_error, 0);
  EXPECT_DOUBLE_EQ(agreement(measured, measured).rank_correlation, 1);
  // Errors of 0.5, 0.25, 0 and 1.
  const Agreement fit = agreement(std::vector<double>{1.5, 1.5, 4, 16}, measured);
  EXPECT_DOUBLE_EQ(fit.median_error, 0.375);
  // Ranks 0.5, 0.5, 2, 3 against 0, 1, 2, 3: covariance 4.5, variances 4.5 and 5.
  EXPECT_DOUBLE_EQ(fit.rank_correlation, 4.5 / std::sqrt(4.5 * 5));
  const Agreement reversed = agreement(std::vector<double>{9, 7, 5}, std::vector<double>{1, 2, 3});
  EXPECT_DOUBLE_EQ(reversed.rank_correlation, -1);
  EXPECT_DOUBLE_EQ(reversed.median_error, 2.5);
}

}  // namespace
}  // namespace espalier
