#include "espalier/base/wide_sums.h"

#include <cmath>

#include "espalier/base/wide.h"

namespace espalier {
namespace {

/// The sum of term(i) for i < count, in eight partial sums. Always inlined, so that it is compiled
/// for the registers of its caller.
template <class Term>
[[gnu::always_inline]] inline double sum(std::int64_t count, const Term& term) {
  constexpr std::int64_t kLanes = 8;
  double sums[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t j = 0; j < kLanes; ++j) sums[j] += term(i + j);
  }
  double all = 0;
  for (; i < count; ++i) all += term(i);
  for (const double lane : sums) all += lane;
  return all;
}

}  // namespace

ESPALIER_WIDE double sum_of_products(const float* a, const float* b, std::int64_t count) {
  return sum(
      count, [=](std::int64_t i) __attribute__((always_inline)) {
        return static_cast<double>(a[i]) * static_cast<double>(b[i]);
      });
}

ESPALIER_WIDE double sum_of_magnitudes(const float* values, std::int64_t count) {
  return sum(
      count, [=](std::int64_t i) __attribute__((always_inline)) {
        return std::abs(static_cast<double>(values[i]));
      });
}

ESPALIER_WIDE double squared_distance(const float* a, const float* b, std::int64_t count) {
  return sum(
      count, [=](std::int64_t i) __attribute__((always_inline)) {
        const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
        return difference * difference;
      });
}

}  // namespace espalier
