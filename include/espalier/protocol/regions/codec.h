#pragma once
// The form in which a region sends its difference to the shared copy. Sums are always taken in
// double, of decoded values, so a codec loses precision only on the wire.

#include <span>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/config/config.h"
#include "espalier/model/buffer_layout.h"

namespace espalier::regions {

enum class Codec {
  float32,  ///< exact
  float16,
  bfloat16,
  int8,  ///< largest absolute value of the tensor / 127 as step; round to nearest
  e3m0   ///< 4 bits: a sign and a power of two relative to the tensor's largest value
};

/// regions.codec.
void declare_codec_options(OptionTable& table);
Codec codec_of(const Config& config);

/// `tensors`: the ranges of `values` that share a scale (int8, e3m0).
Bytes encode(Codec codec, std::span<const Range> tensors, std::span<const float> values);
/// The inverse, up to rounding, into `values`.
void decode(Codec codec, std::span<const Range> tensors, const Bytes& bytes,
            std::span<float> values);
/// Size of the encoded values.
std::int64_t encoded_bytes(Codec codec, std::span<const Range> tensors);

}  // namespace espalier::regions
