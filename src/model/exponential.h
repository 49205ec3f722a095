#pragma once
// The exponential of loops that the compiler vectorises: plain operations only, so that it has the
// same bits in each lane, in a scalar remainder, and on every instruction set.

#include <bit>
#include <cstdint>

namespace espalier {

/// e^y for y <= 0; 0 below the smallest normal number. y = n log 2 + r with |r| <= log 2 / 2; the
/// polynomial is that of Cephes' expf (Moshier).
inline __attribute__((always_inline)) float exponential(float y) {
  constexpr float kRound = 12582912.0F;  // 1.5 x 2^23: adding it leaves no fraction
  const float bounded = y < -87.0F ? -87.0F : y;
  const float shifted = bounded * 1.44269504F + kRound;
  const float n = shifted - kRound;
  const float r = bounded - n * 0.693359375F + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted) << 23;
  const float e = std::bit_cast<float>(std::bit_cast<std::int32_t>(p) + exponent);
  return y < -87.0F ? 0.0F : e;
}

}  // namespace espalier
