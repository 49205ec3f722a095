#pragma once
// Counter-based random streams (Philox4x32-10, Random123). A stream is named by (run seed, purpose,
// a, b, c), usually (client, that client's n-th task, step). No generator has state, so none is
// saved, and no draw depends on rank or order.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace espalier {

/// The use of a stream: the 64-bit hash of its name.
enum class Purpose : std::uint64_t;
/// Registers a name, such as "model.init". The part that draws has a constant for each of its
/// purposes: `const Purpose kInit = register_purpose("model.init");`, outside of functions, so that
/// all are registered before main(). `name` must be a literal.
Purpose register_purpose(std::string_view name);
std::span<const std::string_view> purpose_names();
/// Two equal names, or two names with one hash, are a broken invariant. Called at start.
void check_purposes(std::span<const std::string_view> names);

/// One block of the generator: Philox4x32 with 10 rounds (Salmon et al. 2011).
std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key);

/// The draws of one name; the n-th draw depends on the name and n alone.
class Stream {
 public:
  Stream(std::int64_t seed, Purpose purpose, std::int64_t a = 0, std::int64_t b = 0,
         std::int64_t c = 0);

  std::uint32_t next_u32();
  std::uint64_t next_u64();
  /// Uniform in [0, 1), 53 bits.
  double uniform();
  /// Standard normal (Box-Muller on uniform(); one value per call pair is cached inside the
  /// stream).
  double normal();
  /// Gamma(shape, 1), shape > 0 (Marsaglia and Tsang).
  double gamma(double shape);
  /// Unbiased in [0, bound).
  std::int64_t below(std::int64_t bound);
  /// Fisher-Yates.
  void shuffle(std::span<std::int64_t> values);
  /// `count` distinct values of [0, bound), ascending.
  std::vector<std::int64_t> choose(std::int64_t count, std::int64_t bound);

 private:
  std::array<std::uint32_t, 2> key_{};
  std::uint64_t block_ = 0;
  std::array<std::uint32_t, 4> words_{};
  int next_ = 4;
  double spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace espalier
