#include "espalier/base/wide_sums.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

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

/// An exponent of all ones is infinity or not a number.
ESPALIER_WIDE bool all_finite(std::span<const float> values) {
  constexpr std::uint32_t kExponent = 0x7f800000u;
  // Parts of fixed size, because the compiler vectorises those at every optimisation level.
  constexpr std::size_t kPart = 64;
  std::array<std::uint32_t, kPart> bad{};
  for (std::size_t i = 0; i < values.size(); i += kPart) {
    std::array<std::uint32_t, kPart> bits{};
    std::memcpy(bits.data(), values.data() + i, std::min(kPart, values.size() - i) * sizeof(float));
    for (std::size_t j = 0; j < kPart; ++j) {
      bad[j] |= static_cast<std::uint32_t>((bits[j] & kExponent) == kExponent);
    }
  }
  return std::ranges::all_of(bad, [](std::uint32_t b) { return b == 0; });
}

}  // namespace espalier
