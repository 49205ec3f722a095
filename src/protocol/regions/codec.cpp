#include "espalier/protocol/regions/codec.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "espalier/base/error.h"
#include "espalier/config/choice.h"

namespace espalier::regions {
namespace {

constexpr const char* kCodecs[] = {"float32", "float16", "bfloat16", "int8", "e3m0"};

// E3M0: codes 0 to 6 are the exponents 0 to -6 relative to the scale, code 7 is zero; bit 3 is the
// sign.
constexpr int kSmallestExponent = -6;
constexpr unsigned kZeroCode = 7;
constexpr unsigned kSignBit = 8;

template <class Value>
void put(Bytes& bytes, Value value) {
  const std::size_t place = bytes.size();
  bytes.resize(place + sizeof(Value));
  std::memcpy(bytes.data() + place, &value, sizeof(Value));
}

/// Reads values one after the other.
class Reader {
 public:
  explicit Reader(const Bytes& bytes) : bytes_(bytes) {}
  template <class Value>
  Value take() {
    ESPALIER_CHECK(place_ + sizeof(Value) <= bytes_.size(), "{} bytes of a fragment",
                   bytes_.size());
    Value value;
    std::memcpy(&value, bytes_.data() + place_, sizeof(Value));
    place_ += sizeof(Value);
    return value;
  }

 private:
  const Bytes& bytes_;
  std::size_t place_ = 0;
};

std::span<const float> part(std::span<const float> values, Range range) {
  return values.subspan(static_cast<std::size_t>(range.begin),
                        static_cast<std::size_t>(range.size()));
}

/// NaN if a value is not finite: the whole tensor is then decoded as NaN, which the server notices.
float largest(std::span<const float> values) {
  float most = 0;
  for (const float value : values) {
    if (!std::isfinite(value)) return std::numeric_limits<float>::quiet_NaN();
    most = std::max(most, std::abs(value));
  }
  return most;
}

template <class Narrow>
Bytes narrowed(std::span<const Range> tensors, std::span<const float> values) {
  Bytes bytes;
  for (const Range& range : tensors) {
    for (const float value : part(values, range)) put(bytes, static_cast<Narrow>(value));
  }
  return bytes;
}

template <class Narrow>
void widen(std::span<const Range> tensors, const Bytes& bytes, std::span<float> values) {
  Reader reader(bytes);
  for (const Range& range : tensors) {
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      values[static_cast<std::size_t>(i)] = static_cast<float>(reader.take<Narrow>());
    }
  }
}

void put_int8(Bytes& bytes, std::span<const float> values) {
  const float step = largest(values) / 127;
  put(bytes, step);
  for (const float value : values) {
    const float code = step > 0 ? std::nearbyint(value / step) : 0;
    put(bytes, static_cast<std::int8_t>(std::clamp(code, -127.0F, 127.0F)));
  }
}

unsigned e3m0_code(float value, float scale) {
  const float size = std::abs(value);
  if (!(size > 0) || !(scale > 0)) return kZeroCode;
  const double exponent = std::log2(static_cast<double>(size) / static_cast<double>(scale));
  if (exponent < kSmallestExponent - 0.5) return kZeroCode;
  const auto code =
      static_cast<unsigned>(-std::clamp<double>(std::round(exponent), kSmallestExponent, 0));
  return code | (value < 0 ? kSignBit : 0U);
}

float e3m0_value(unsigned code, float scale) {
  if ((code & 7U) == kZeroCode) return 0 * scale;  // NaN if the scale is
  const float size = std::ldexp(scale, -static_cast<int>(code & 7U));
  return (code & kSignBit) != 0 ? -size : size;
}

void put_e3m0(Bytes& bytes, std::span<const float> values) {
  const float scale = largest(values);
  put(bytes, scale);
  for (std::size_t i = 0; i < values.size(); i += 2) {
    const unsigned low = e3m0_code(values[i], scale);
    const unsigned high = i + 1 < values.size() ? e3m0_code(values[i + 1], scale) : kZeroCode;
    put(bytes, static_cast<std::uint8_t>(low | (high << 4U)));
  }
}

}  // namespace

void declare_codec_options(OptionTable& table) {
  table.add_choice("regions.codec", "float32",
                   "form in which a region's difference travels; int8 and e3m0 (4 bits: a sign and "
                   "a power of two) have a scale for each tensor",
                   {std::begin(kCodecs), std::end(kCodecs)});
}

Codec codec_of(const Config& config) { return choice<Codec>(config, "regions.codec", kCodecs); }

Bytes encode(Codec codec, std::span<const Range> tensors, std::span<const float> values) {
  Bytes bytes;
  switch (codec) {
    case Codec::float32:
      return narrowed<float>(tensors, values);
    case Codec::float16:
      return narrowed<c10::Half>(tensors, values);
    case Codec::bfloat16:
      return narrowed<c10::BFloat16>(tensors, values);
    case Codec::int8:
      for (const Range& range : tensors) put_int8(bytes, part(values, range));
      return bytes;
    case Codec::e3m0:
      for (const Range& range : tensors) put_e3m0(bytes, part(values, range));
      return bytes;
  }
  return bytes;
}

void decode(Codec codec, std::span<const Range> tensors, const Bytes& bytes,
            std::span<float> values) {
  ESPALIER_CHECK(std::ssize(bytes) == encoded_bytes(codec, tensors), "{} bytes of a fragment",
                 bytes.size());
  Reader reader(bytes);
  switch (codec) {
    case Codec::float32:
      return widen<float>(tensors, bytes, values);
    case Codec::float16:
      return widen<c10::Half>(tensors, bytes, values);
    case Codec::bfloat16:
      return widen<c10::BFloat16>(tensors, bytes, values);
    case Codec::int8:
      for (const Range& range : tensors) {
        const auto step = reader.take<float>();
        for (std::int64_t i = range.begin; i < range.end; ++i) {
          values[static_cast<std::size_t>(i)] =
              step * static_cast<float>(reader.take<std::int8_t>());
        }
      }
      return;
    case Codec::e3m0:
      for (const Range& range : tensors) {
        const auto scale = reader.take<float>();
        for (std::int64_t i = range.begin; i < range.end; i += 2) {
          const unsigned pair = reader.take<std::uint8_t>();
          values[static_cast<std::size_t>(i)] = e3m0_value(pair & 15U, scale);
          if (i + 1 < range.end) {
            values[static_cast<std::size_t>(i + 1)] = e3m0_value(pair >> 4U, scale);
          }
        }
      }
      return;
  }
}

std::int64_t encoded_bytes(Codec codec, std::span<const Range> tensors) {
  constexpr std::int64_t kScale = sizeof(float);
  std::int64_t bytes = 0;
  for (const Range& range : tensors) {
    switch (codec) {
      case Codec::float32:
        bytes += 4 * range.size();
        break;
      case Codec::float16:
      case Codec::bfloat16:
        bytes += 2 * range.size();
        break;
      case Codec::int8:
        bytes += kScale + range.size();
        break;
      case Codec::e3m0:
        bytes += kScale + (range.size() + 1) / 2;
        break;
    }
  }
  return bytes;
}

}  // namespace espalier::regions
