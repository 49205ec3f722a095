#include "espalier/base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "espalier/base/error.h"
#include "espalier/base/hash.h"
#include "purpose.h"

namespace espalier {
namespace {

using Words = std::array<std::uint32_t, 4>;

const Purpose kOther = register_purpose("test.other");

// The seeds are fixed, so every statistic below is one number; a bound of six standard deviations
// excludes an accident of the seed.
constexpr double kDeviations = 6.0;

Stream test_stream(std::int64_t a = 0, std::int64_t b = 0, std::int64_t c = 0) {
  return Stream(7, kTest, a, b, c);
}

// Known answers published with Random123 (kat_vectors, "philox4x32 10").
TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32_10({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Stream, IsThePhiloxBlocksOfItsKeyInOrder) {
  const std::array<std::uint64_t, 5> name{7, static_cast<std::uint64_t>(kTest), 1, 2, 3};
  const std::uint64_t key = hash_bytes(name.data(), sizeof(name));
  Stream stream = test_stream(1, 2, 3);
  for (std::uint32_t block = 0; block < 3; ++block)
    for (std::uint32_t word :
         philox4x32_10({block, 0, 0, 0},
                       {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)}))
      EXPECT_EQ(stream.next_u32(), word);
}

TEST(Stream, ReplaysFromItsNameWhateverElseIsDrawn) {
  Stream first = test_stream(4);
  std::vector<double> drawn;
  for (int i = 0; i < 100; ++i) drawn.push_back(first.normal());
  Stream other = test_stream(5);
  Stream again = test_stream(4);
  for (double value : drawn) {
    other.next_u32();
    EXPECT_EQ(again.normal(), value);
  }
}

TEST(Stream, DiffersInEveryPartOfItsName) {
  const Purpose use = kTest;
  std::set<std::uint64_t> firsts{
      Stream(7, use, 1, 2, 3).next_u64(), Stream(8, use, 1, 2, 3).next_u64(),
      Stream(7, use, 0, 2, 3).next_u64(), Stream(7, use, 1, 0, 3).next_u64(),
      Stream(7, use, 1, 2, 0).next_u64(), Stream(7, use, 2, 1, 3).next_u64(),
      Stream(7, use, 1, 3, 2).next_u64(), Stream(7, kOther, 1, 2, 3).next_u64()};
  EXPECT_EQ(firsts.size(), 8u);
}

TEST(Stream, NeighbouringStreamsAreUncorrelated) {
  // The mean of n products of independent centred uniforms has standard deviation (1/12)/sqrt(n).
  const int n = 20000;
  double sum = 0;
  for (int client = 0; client < n; ++client)
    sum += (test_stream(client).uniform() - 0.5) * (test_stream(client + 1).uniform() - 0.5);
  EXPECT_LT(std::abs(sum / n), kDeviations / 12.0 / std::sqrt(n));
}

TEST(Stream, UniformLiesInTheHalfOpenIntervalWithItsMean) {
  Stream stream = test_stream();
  const int n = 100000;
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    const double value = stream.uniform();
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
    sum += value;
  }
  EXPECT_LT(std::abs(sum / n - 0.5), kDeviations / std::sqrt(12.0 * n));
}

TEST(Stream, NormalHasMomentsZeroOneZeroThree) {
  Stream stream = test_stream();
  const int n = 100000;
  std::array<double, 5> moment{};
  for (int i = 0; i < n; ++i) {
    const double x = stream.normal();
    for (int k = 1; k <= 4; ++k) moment[k] += std::pow(x, k) / n;
  }
  // Var(x^k) = E x^2k - (E x^k)^2: 1, 2, 15, 96.
  EXPECT_LT(std::abs(moment[1]), kDeviations * std::sqrt(1.0 / n));
  EXPECT_LT(std::abs(moment[2] - 1), kDeviations * std::sqrt(2.0 / n));
  EXPECT_LT(std::abs(moment[3]), kDeviations * std::sqrt(15.0 / n));
  EXPECT_LT(std::abs(moment[4] - 3), kDeviations * std::sqrt(96.0 / n));
}

TEST(Stream, GammaHasMeanAndVarianceOfItsShape) {
  for (double shape : {0.1, 0.5, 1.0, 3.5, 100.0}) {
    Stream stream = test_stream(static_cast<std::int64_t>(shape * 10));
    const int n = 50000;
    double mean = 0, square = 0;
    for (int i = 0; i < n; ++i) {
      const double x = stream.gamma(shape);
      ASSERT_GE(x, 0.0);
      mean += x / n;
      square += (x - shape) * (x - shape) / n;
    }
    // Var(x) = shape; the fourth central moment is 3 shape^2 + 6 shape.
    EXPECT_LT(std::abs(mean - shape), kDeviations * std::sqrt(shape / n)) << shape;
    EXPECT_LT(std::abs(square - shape),
              kDeviations * std::sqrt((2 * shape * shape + 6 * shape) / n))
        << shape;
  }
}

TEST(Stream, BelowIsUniform) {
  // Chi-square with k - 1 degrees of freedom has mean k - 1 and variance 2 (k - 1).
  for (std::int64_t bound : {2, 3, 10, 1000}) {
    Stream stream = test_stream(bound);
    const std::int64_t n = 100 * bound;
    std::vector<int> seen(bound);
    for (std::int64_t i = 0; i < n; ++i) ++seen.at(stream.below(bound));
    double chi_square = 0;
    for (int count : seen) chi_square += (count - 100.0) * (count - 100.0) / 100.0;
    EXPECT_LT(chi_square, (bound - 1) + kDeviations * std::sqrt(2.0 * (bound - 1))) << bound;
  }
}

TEST(Stream, BelowIsUnbiasedWhereAPlainRemainderIsNot) {
  // 2^64 mod 3*2^61 = 2^62: without rejection the first two thirds would get 3/4 of the draws.
  const std::int64_t bound = 3 * (std::int64_t{1} << 61);
  Stream stream = test_stream();
  const int n = 10000;
  int low = 0;
  for (int i = 0; i < n; ++i) low += stream.below(bound) < bound / 3 * 2 ? 1 : 0;
  EXPECT_LT(std::abs(low - n * 2.0 / 3.0), kDeviations * std::sqrt(n * 2.0 / 9.0));
}

TEST(Stream, ShuffleGivesEachOrderEquallyOften) {
  Stream stream = test_stream();
  std::map<std::vector<std::int64_t>, int> seen;
  const int n = 24000;
  for (int i = 0; i < n; ++i) {
    std::vector<std::int64_t> values{0, 1, 2, 3};
    stream.shuffle(values);
    ++seen[values];
  }
  ASSERT_EQ(seen.size(), 24u);
  double chi_square = 0;
  for (const auto& [order, count] : seen)
    chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_square, 23 + kDeviations * std::sqrt(46.0));
}

TEST(Stream, ChooseGivesEachSubsetEquallyOftenAscending) {
  Stream stream = test_stream();
  std::map<std::vector<std::int64_t>, int> seen;
  const int n = 10000;
  for (int i = 0; i < n; ++i) ++seen[stream.choose(2, 5)];
  ASSERT_EQ(seen.size(), 10u);
  double chi_square = 0;
  for (const auto& [subset, count] : seen) {
    EXPECT_LT(subset[0], subset[1]);
    chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  }
  EXPECT_LT(chi_square, 9 + kDeviations * std::sqrt(18.0));
}

TEST(Stream, ChooseOfNoneAndOfAll) {
  EXPECT_TRUE(test_stream().choose(0, 5).empty());
  EXPECT_TRUE(test_stream().choose(0, 0).empty());
  std::vector<std::int64_t> all(100);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(test_stream().choose(100, 100), all);
}

TEST(Stream, ImpossibleDrawsAreInternalErrors) {
  EXPECT_THROW(test_stream().below(0), Error);
  EXPECT_THROW(test_stream().choose(6, 5), Error);
  EXPECT_THROW(test_stream().gamma(0), Error);
}

TEST(Purposes, AreTheHashesOfTheirNames) {
  EXPECT_EQ(kTest, Purpose{hash_text("test")});
  EXPECT_EQ(kOther, Purpose{hash_text("test.other")});
}

TEST(Purposes, AreRegisteredOnce) {
  const auto names = purpose_names();
  EXPECT_EQ(std::ranges::count(names, "test"), 1);
  EXPECT_EQ(std::ranges::count(names, "test.other"), 1);
  EXPECT_NO_THROW(check_purposes(names));
  std::vector<std::string_view> twice(names.begin(), names.end());
  twice.push_back("test.other");
  try {
    check_purposes(twice);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::internal);
    EXPECT_NE(std::string(error.what()).find("'test.other'"), std::string::npos);
  }
}

// XXH3_64bits of the empty string, from the xxHash specification's test values.
TEST(Hash, OfPiecesIsThatOfTheWhole) {
  std::vector<unsigned char> bytes(5000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * i >> 3);
  for (const std::size_t cut : {0, 1, 240, 241, 1024, 4999}) {
    Hasher hasher;
    hasher.add(bytes.data(), cut);
    hasher.add(bytes.data() + cut, bytes.size() - cut);
    EXPECT_EQ(hasher.value(), hash_bytes(bytes.data(), bytes.size()));
  }
}

TEST(Hash, GivesThePublishedAnswerAndDependsOnSeedAndBytes) {
  EXPECT_EQ(hash_text(""), 0x2d06800538d394c2u);
  EXPECT_NE(hash_text("a"), hash_text("b"));
  EXPECT_NE(hash_bytes("a", 1, 0), hash_bytes("a", 1, 1));
}

}  // namespace
}  // namespace espalier
