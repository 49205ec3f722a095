#include "espalier/protocol/regions/codec.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "purpose.h"

namespace espalier::regions {
namespace {

std::vector<float> random_values(std::int64_t count, std::int64_t key, double scale = 1) {
  Stream stream(1, kTest, key);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(scale * stream.normal());
  return values;
}

std::vector<float> there_and_back(Codec codec, const std::vector<Range>& tensors,
                                  const std::vector<float>& values) {
  const Bytes bytes = encode(codec, tensors, values);
  EXPECT_EQ(std::ssize(bytes), encoded_bytes(codec, tensors));
  std::vector<float> back(values.size(), 7);
  decode(codec, tensors, bytes, back);
  return back;
}

std::vector<Range> one_tensor(const std::vector<float>& values) {
  return {{0, std::ssize(values)}};
}

at::Tensor tensor_of(const std::vector<float>& values) {
  return at::from_blob(const_cast<float*>(values.data()), {std::ssize(values)}, at::kFloat).clone();
}

const std::vector<Range> kOdd{{0, 1}, {1, 8}, {8, 30}, {30, 61}};

TEST(Codec, Float32IsExact) {
  const auto values = random_values(61, 1);
  EXPECT_EQ(there_and_back(Codec::float32, kOdd, values), values);
}

TEST(Codec, NarrowFloatsAreThoseOfATen) {
  for (const double scale : {1e-7, 1e-3, 1.0, 300.0}) {
    const auto values = random_values(61, 2, scale);
    for (const auto& [codec, type] :
         {std::pair{Codec::float16, at::kHalf}, std::pair{Codec::bfloat16, at::kBFloat16}}) {
      const at::Tensor expected = tensor_of(values).to(type).to(at::kFloat);
      EXPECT_TRUE(at::equal(tensor_of(there_and_back(codec, kOdd, values)), expected)) << scale;
    }
  }
}

TEST(Codec, Int8RoundsToTheNearestOf255StepsOfEachTensor) {
  for (const double scale : {1e-6, 1.0, 1e5}) {
    const auto values = random_values(61, 3, scale);
    const auto back = there_and_back(Codec::int8, kOdd, values);
    for (const Range& range : kOdd) {
      const at::Tensor before = tensor_of(values).slice(0, range.begin, range.end);
      const at::Tensor after = tensor_of(back).slice(0, range.begin, range.end);
      const at::Tensor step = before.abs().max() / 127;
      EXPECT_TRUE(at::equal(after, at::round(before / step).clamp(-127, 127) * step)) << scale;
    }
  }
}

TEST(Codec, E3m0KeepsPowersOfTwoTimesTheScale) {
  for (const float scale : {3.0e-9F, 0.7F, 1.0F, 12345.0F}) {
    std::vector<float> values{0};
    for (int exponent = 0; exponent >= -6; --exponent) {
      values.push_back(std::ldexp(scale, exponent));
      values.push_back(-std::ldexp(scale, exponent));
    }
    EXPECT_EQ(there_and_back(Codec::e3m0, one_tensor(values), values), values);
  }
}

TEST(Codec, E3m0IsOffByAFactorOfRootTwoAtMost) {
  // Logarithms of the sizes are spread evenly over ten octaves, of which the last three are
  // flushed.
  Stream stream(1, kTest, 4);
  std::vector<float> values(4001);
  for (float& value : values) {
    value =
        static_cast<float>((stream.uniform() < 0.5 ? -3 : 3) * std::exp2(-10 * stream.uniform()));
  }
  values[17] = 3;
  const auto back = there_and_back(Codec::e3m0, one_tensor(values), values);
  int flushed = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double size = std::abs(values[i]);
    const double error = std::abs(static_cast<double>(back[i]) - static_cast<double>(values[i]));
    if (size < 3 * std::exp2(-6.5) * (1 - 1e-6)) {
      ASSERT_EQ(back[i], 0) << values[i];
      ++flushed;
    } else if (size > 3 * std::exp2(-6.5) * (1 + 1e-6)) {
      ASSERT_LE(error, (std::sqrt(2.0) - 1) * size * (1 + 1e-6)) << values[i];
      ASSERT_EQ(std::signbit(back[i]), std::signbit(values[i]));
    }
  }
  EXPECT_GT(flushed, 1000);
  EXPECT_LT(flushed, 2000);
}

TEST(Codec, EachTensorHasItsOwnScale) {
  const std::vector<float> values{1, 0.5F, 1e-6F, 5e-7F, 0};
  const std::vector<Range> tensors{{0, 2}, {2, 5}};
  EXPECT_EQ(there_and_back(Codec::e3m0, tensors, values), values);
}

TEST(Codec, ZerosStayZeros) {
  const std::vector<float> zeros(61, 0);
  for (const Codec codec :
       {Codec::float32, Codec::float16, Codec::bfloat16, Codec::int8, Codec::e3m0}) {
    EXPECT_EQ(there_and_back(codec, kOdd, zeros), zeros);
  }
}

TEST(Codec, SizesAreThoseOfTheFormat) {
  // 61 values in tensors of 1, 7, 22 and 31.
  EXPECT_EQ(encoded_bytes(Codec::float32, kOdd), 4 * 61);
  EXPECT_EQ(encoded_bytes(Codec::float16, kOdd), 2 * 61);
  EXPECT_EQ(encoded_bytes(Codec::bfloat16, kOdd), 2 * 61);
  EXPECT_EQ(encoded_bytes(Codec::int8, kOdd), 61 + 4 * 4);
  EXPECT_EQ(encoded_bytes(Codec::e3m0, kOdd), 1 + 4 + 11 + 16 + 4 * 4);
}

// A region whose training diverged must be noticed by the server, whatever the codec.
TEST(Codec, ValuesThatAreNotFiniteStayVisible) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto values = random_values(61, 5);
    values[40] = bad;
    for (const Codec codec :
         {Codec::float32, Codec::float16, Codec::bfloat16, Codec::int8, Codec::e3m0}) {
      EXPECT_FALSE(std::isfinite(there_and_back(codec, kOdd, values)[40]))
          << static_cast<int>(codec);
    }
  }
}

}  // namespace
}  // namespace espalier::regions
