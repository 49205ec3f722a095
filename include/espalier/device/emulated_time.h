#pragma once
// Emulated time that does not wrap around. A 64-bit count of nanoseconds ends after 292 years;
// sums, products and roundings end at the largest value instead. Events later than 100 years are
// refused (within_century), because such a run has a wrong unit.

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "espalier/device/device.h"

namespace espalier {

inline constexpr Nanoseconds kLatest = std::numeric_limits<Nanoseconds>::max();

/// a + b, or kLatest.
inline Nanoseconds later(Nanoseconds a, Nanoseconds b) {
  Nanoseconds sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? kLatest : sum;
}

/// count x each, or kLatest; neither is negative.
inline Nanoseconds times(std::int64_t count, Nanoseconds each) {
  Nanoseconds product = 0;
  return __builtin_mul_overflow(count, each, &product) ? kLatest : product;
}

/// The nearest whole number of nanoseconds, or kLatest.
inline Nanoseconds rounded(double nanoseconds) {
  // The smallest double above all times.
  constexpr double kTooMany = 0x1p63;
  return nanoseconds < kTooMany ? std::llround(nanoseconds) : kLatest;
}

/// Whether the time is one that no run reaches.
inline bool is_beyond_century(Nanoseconds time) {
  return static_cast<double>(time) > kHundredYears;
}

/// The time, if it is not beyond 100 years; else an InputError that names the options `what`.
Nanoseconds within_century(Nanoseconds time, const std::string& what);

/// The operations of all steps. InputError if there are more than the program can count.
std::int64_t flops_of(std::span<const Steps> steps);

}  // namespace espalier
