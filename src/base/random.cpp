#include "espalier/base/random.h"

#include <Random123/philox.h>

#include <cmath>
#include <numbers>
#include <set>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/hash.h"

namespace espalier {

namespace {

/// A local one, because constants of other files register before main() in any order.
std::vector<std::string_view>& registered() {
  static std::vector<std::string_view> names;
  return names;
}

}  // namespace

Purpose register_purpose(std::string_view name) {
  registered().push_back(name);
  return Purpose{hash_text(name)};
}

std::span<const std::string_view> purpose_names() { return registered(); }

void check_purposes(std::span<const std::string_view> names) {
  std::set<std::uint64_t> seen;
  for (std::string_view name : names)
    ESPALIER_CHECK(seen.insert(hash_text(name)).second,
                   "random purpose '{}' is registered twice, or another has its hash; rename it",
                   name);
}

Stream::Stream(std::int64_t seed, Purpose purpose, std::int64_t a, std::int64_t b, std::int64_t c) {
  const std::array<std::int64_t, 5> name{seed, static_cast<std::int64_t>(purpose), a, b, c};
  const std::uint64_t key = hash_bytes(name.data(), sizeof(name));
  key_ = {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
}

std::uint32_t Stream::next_u32() {
  if (next_ == 4) {
    words_ = philox4x32_10(
        {static_cast<std::uint32_t>(block_), static_cast<std::uint32_t>(block_ >> 32), 0, 0}, key_);
    ++block_;
    next_ = 0;
  }
  return words_[next_++];
}

std::uint64_t Stream::next_u64() {
  const std::uint64_t low = next_u32();
  return low | static_cast<std::uint64_t>(next_u32()) << 32;
}

double Stream::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }

double Stream::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  // 1 - uniform() is in (0, 1], where the logarithm is finite.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  const double angle = 2.0 * std::numbers::pi * uniform();
  spare_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

double Stream::gamma(double shape) {
  ESPALIER_CHECK(shape > 0 && std::isfinite(shape), "gamma shape {}", shape);
  // The method needs shape >= 1; Gamma(s) = Gamma(s + 1) U^(1/s) covers the rest.
  if (shape < 1) {
    const double above = gamma(shape + 1);
    return above * std::pow(1.0 - uniform(), 1.0 / shape);
  }
  const double d = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  while (true) {
    const double x = normal();
    const double root = 1.0 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (std::log(1.0 - uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

std::int64_t Stream::below(std::int64_t bound) {
  ESPALIER_CHECK(bound > 0, "bound {}", bound);
  const auto n = static_cast<std::uint64_t>(bound);
  // 2^64 mod n draws are refused, so that every remainder has equally many preimages.
  const std::uint64_t refused = (0 - n) % n;
  std::uint64_t draw = next_u64();
  while (draw < refused) draw = next_u64();
  return static_cast<std::int64_t>(draw % n);
}

void Stream::shuffle(std::span<std::int64_t> values) {
  for (std::size_t left = values.size(); left > 1; --left)
    std::swap(values[left - 1], values[below(static_cast<std::int64_t>(left))]);
}

std::vector<std::int64_t> Stream::choose(std::int64_t count, std::int64_t bound) {
  ESPALIER_CHECK(0 <= count && count <= bound, "choose {} of {}", count, bound);
  // Floyd's method: time and memory grow with count only, so a few of millions of clients are
  // cheap.
  std::set<std::int64_t> chosen;
  for (std::int64_t last = bound - count; last < bound; ++last)
    if (!chosen.insert(below(last + 1)).second) chosen.insert(last);
  return {chosen.begin(), chosen.end()};
}

std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key) {
  const r123::Philox4x32::ctr_type in{{counter[0], counter[1], counter[2], counter[3]}};
  const auto out = r123::Philox4x32_R<10>{}(in, {{key[0], key[1]}});
  return {out[0], out[1], out[2], out[3]};
}

}  // namespace espalier
