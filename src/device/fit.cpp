#include "espalier/device/fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "espalier/base/error.h"

namespace espalier {
namespace {

// Unknowns: nanoseconds per FLOP of each kind of work, per moved byte, and per block. Attention
// consists of matrix products, so its unknown is the time that a FLOP takes beyond theirs.
constexpr auto kConvolution = static_cast<std::size_t>(Work::convolution);
constexpr auto kProduct = static_cast<std::size_t>(Work::product);
constexpr auto kAttention = static_cast<std::size_t>(Work::attention);
constexpr auto kOther = static_cast<std::size_t>(Work::other);
constexpr std::size_t kByte = kWorks;
constexpr std::size_t kBlock = kWorks + 1;
constexpr std::size_t kUnknowns = kWorks + 2;
using Times = std::array<double, kUnknowns>;

double dot(const Times& a, const Times& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// The coefficients of a step's time, if arithmetic or memory bounds each block as at `times`:
/// their product with `times` is the predicted time.
Times parts(const TrainingCost& step, const Times& times) {
  Times sum{};
  for (const BlockCost& block : step.blocks) {
    Times arithmetic{};
    Times memory{};
    std::copy(block.step_flops.begin(), block.step_flops.end(), arithmetic.begin());
    arithmetic[kProduct] += arithmetic[kAttention];
    memory[kByte] = static_cast<double>(block.moved_bytes);
    const Times& longer = dot(arithmetic, times) >= dot(memory, times) ? arithmetic : memory;
    for (std::size_t k = 0; k < kUnknowns; ++k) sum[k] += longer[k];
  }
  sum[kBlock] = static_cast<double>(step.blocks.size());
  return sum;
}

/// The unknowns x >= 0 that minimise the sum of weight (row x - 1)^2, by coordinate descent from
/// `x`; an unknown that no row has keeps its value.
Times least_squares(const std::vector<Times>& rows, const std::vector<double>& weights, Times x) {
  constexpr int kSweeps = 300;
  std::array<Times, kUnknowns> normal{};
  Times right{};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < kUnknowns; ++j) {
      right[j] += weights[i] * rows[i][j];
      for (std::size_t k = 0; k < kUnknowns; ++k) {
        normal[j][k] += weights[i] * rows[i][j] * rows[i][k];
      }
    }
  }
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    for (std::size_t j = 0; j < kUnknowns; ++j) {
      if (normal[j][j] == 0) continue;
      x[j] = std::max(0.0, x[j] + (right[j] - dot(normal[j], x)) / normal[j][j]);
    }
  }
  return x;
}

struct Fit {
  Times times{};
  double error = std::numeric_limits<double>::infinity();  ///< mean of |predicted / measured - 1|
};

/// The best iterate from `start`.
Fit fit_from(Times start, std::span<const MeasuredStep> steps) {
  constexpr int kIterations = 60;
  // Errors below it have equal weight, as in least squares.
  constexpr double kSmallError = 0.02;
  // Later iterates go half the way, so that no block changes between the two bounds for ever.
  constexpr int kFreely = 6;
  Fit best;
  Times x = start;
  for (int iteration = 0; iteration < kIterations; ++iteration) {
    std::vector<Times> rows;
    std::vector<double> weights;
    double error = 0;
    for (const MeasuredStep& step : steps) {
      Times row = parts(step.cost, x);
      for (double& value : row) value /= 1e9 * step.seconds;
      const double off = std::abs(dot(row, x) - 1);
      error += off / static_cast<double>(steps.size());
      weights.push_back(1 / std::max(off, kSmallError));
      rows.push_back(row);
    }
    if (error < best.error) best = {x, error};
    const Times next = least_squares(rows, weights, x);
    const double part = iteration < kFreely ? 1 : 0.5;
    for (std::size_t k = 0; k < kUnknowns; ++k) x[k] += part * (next[k] - x[k]);
  }
  return best;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/// The rank of each value in ascending order; equal values get the mean of their ranks.
std::vector<double> ranks(std::span<const double> values) {
  std::vector<double> places;
  for (const double value : values) {
    const auto below = std::ranges::count_if(values, [&](double v) { return v < value; });
    const auto equal = std::ranges::count(values, value);
    places.push_back(static_cast<double>(below) + static_cast<double>(equal - 1) / 2);
  }
  return places;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return ab / std::sqrt(aa * bb);
}

}  // namespace

DeviceClass fit_rates(std::span<const MeasuredStep> steps) {
  ESPALIER_CHECK(!steps.empty(), "nothing to fit");
  // The blocks that memory bounds depend on the start of the search, so it starts at three balances
  // of arithmetic (GFLOP/s), other work and memory (GB/s), scaled to the mean of the steps.
  constexpr std::array<std::array<double, 3>, 3> kStarts{{{50, 2, 50}, {50, 10, 10}, {50, 50, 2}}};
  Fit best;
  for (const auto& [rate, other, bandwidth] : kStarts) {
    Times start{};
    start.fill(1 / rate);
    start[kOther] = 1 / other;
    start[kAttention] = 0;
    start[kByte] = 1 / bandwidth;
    start[kBlock] = 0;
    double ratio = 0;
    for (const MeasuredStep& step : steps) {
      ratio += 1e9 * step.seconds / dot(parts(step.cost, start), start) /
               static_cast<double>(steps.size());
    }
    for (double& value : start) value *= ratio;
    const Fit fit = fit_from(start, steps);
    if (fit.error < best.error) best = fit;
  }

  Times times = best.times;
  times[kAttention] += times[kProduct];
  std::array<bool, kWorks> measured{};
  for (const MeasuredStep& step : steps) {
    for (const BlockCost& block : step.cost.blocks) {
      for (std::size_t k = 0; k < measured.size(); ++k) measured[k] |= block.step_flops[k] > 0;
    }
  }
  // Work without a measured time of its own gets the fastest of the other rates.
  constexpr double kAtOnce = 1e6;
  double fastest = 0;
  for (std::size_t k = 0; k < measured.size(); ++k) {
    if (measured[k] && times[k] > 0) fastest = std::max(fastest, 1 / times[k]);
  }
  if (fastest == 0) fastest = kAtOnce;
  const auto rate = [&](std::size_t k) { return times[k] > 0 ? 1 / times[k] : fastest; };
  DeviceClass device;
  device.gflops = measured[kOther] ? rate(kOther) : fastest;
  if (measured[kConvolution]) device.gflops_conv = rate(kConvolution);
  if (measured[kProduct]) device.gflops_matmul = rate(kProduct);
  if (measured[kAttention]) device.gflops_attention = rate(kAttention);
  device.memory_gbps = best.times[kByte] > 0 ? 1 / best.times[kByte] : 0;
  device.overhead_us = 1e-3 * best.times[kBlock];
  return device;
}

Agreement agreement(std::span<const double> predicted, std::span<const double> measured) {
  ESPALIER_CHECK(predicted.size() == measured.size() && !measured.empty());
  std::vector<double> errors;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    errors.push_back(std::abs(predicted[i] / measured[i] - 1));
  }
  return {median(std::move(errors)), correlation(ranks(predicted), ranks(measured))};
}

}  // namespace espalier
