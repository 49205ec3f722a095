#include "espalier/data/fingerprint.h"

#include "data/fixture.h"

namespace espalier {
namespace {

using Differences = std::vector<std::string>;

/// Value j of sample i is i + j / 8, its class i % 3; one sample has other values and another
/// class.
class Made final : public Split {
 public:
  Made(std::int64_t samples, std::int64_t width) : samples_(samples), width_(width) {}
  std::int64_t odd = -1;
  float more = 0;
  std::int64_t label_more = 0;
  bool next_token = false;
  mutable std::int64_t read = 0;  // samples

  std::int64_t size() const override { return samples_; }
  std::int64_t label(std::int64_t i) const override {
    return next_token ? 0 : i % 3 + (i == odd ? label_more : 0);
  }
  at::Tensor inputs(std::span<const std::int64_t> indices, Stream*) const override {
    return values(indices, more);
  }
  at::Tensor labels(std::span<const std::int64_t> indices) const override {
    return next_token ? values(indices, static_cast<float>(label_more)).to(at::kLong)
                      : Split::labels(indices);
  }

 private:
  at::Tensor values(std::span<const std::int64_t> indices, float odd_more) const {
    read += std::ssize(indices);
    at::Tensor result = at::empty({std::ssize(indices), width_});
    float* next = result.data_ptr<float>();
    for (const std::int64_t i : indices) {
      for (std::int64_t j = 0; j < width_; ++j) {
        *next++ = static_cast<float>(i) + static_cast<float>(j) / 8 + (i == odd ? odd_more : 0);
      }
    }
    return result;
  }

  std::int64_t samples_, width_;
};

struct Numbers {
  explicit Numbers(std::int64_t samples, std::int64_t width = 2) {
    data.shape = {.sample = {width}, .classes = 3, .vocabulary = 0, .next_token = false};
    for (auto [split, made] : {std::pair(&data.train, &train), std::pair(&data.test, &test)}) {
      auto owned = std::make_unique<Made>(samples, width);
      *made = owned.get();
      *split = std::move(owned);
    }
  }
  std::string print() const { return fingerprint(data); }

  Dataset data;
  Made* train = nullptr;
  Made* test = nullptr;
};

TEST(Fingerprint, OfTheSameDataIsTheSame) {
  EXPECT_EQ(Numbers(70).print(), Numbers(70).print());
  EXPECT_EQ(differing(Numbers(70).print(), Numbers(70).print()), Differences{});
}

TEST(Fingerprint, OneValueOrLabelOfASmallSplitTells) {
  const std::string there = Numbers(70).print();
  for (const std::int64_t sample : {0, 33, 69}) {
    Numbers value(70);
    value.train->odd = sample;
    value.train->more = 1e-3F;
    EXPECT_EQ(differing(there, value.print()), Differences{"training values"});
    Numbers label(70);
    label.test->odd = sample;
    label.test->label_more = 1;
    EXPECT_EQ(differing(there, label.print()), Differences{"test labels"});
  }
}

TEST(Fingerprint, SizesAreTold) {
  EXPECT_EQ(
      differing(Numbers(70).print(), Numbers(71).print()),
      (Differences{"test labels", "test samples (70 there, 71 here)", "test values",
                   "training labels", "training samples (70 there, 71 here)", "training values"}));
}

TEST(Fingerprint, WhoHasASampleTells) {
  Numbers numbers(6);
  numbers.data.client_of = {0, 1, 2, 0, 1, 2};
  const std::string there = numbers.print();
  numbers.data.client_of[4] = 2;
  EXPECT_EQ(differing(there, numbers.print()), Differences{"clients of the samples"});
}

/// In a split beyond 64 MB both ends and a fixed number of samples are hashed, and all labels.
TEST(Fingerprint, OfALargeSplitIsOfASample) {
  const auto print = [](std::int64_t odd, float more, std::int64_t label_more) {
    Numbers numbers(1'000'003, 100);
    numbers.train->odd = odd;
    numbers.train->more = more;
    numbers.train->label_more = label_more;
    const std::string text = numbers.print();
    EXPECT_LE(numbers.train->read, 300);
    return text;
  };
  const std::string plain = print(-1, 0, 0);
  EXPECT_EQ(differing(plain, print(0, 1, 0)), Differences{"training values"});
  EXPECT_EQ(differing(plain, print(1'000'002, 1, 0)), Differences{"training values"});
  EXPECT_EQ(differing(plain, print(777'777, 0, 1)), Differences{"training labels"});
}

TEST(Fingerprint, LabelsOfPositionsCount) {
  const auto print = [](std::int64_t label_more) {
    Numbers numbers(5);
    numbers.data.shape.next_token = true;
    for (Made* split : {numbers.train, numbers.test}) split->next_token = true;
    numbers.test->odd = 2;
    numbers.test->label_more = label_more;
    return numbers.print();
  };
  EXPECT_EQ(differing(print(0), print(1)), Differences{"test values"});
}

TEST(Fingerprint, WhatOnlyOneTellsIsLeftAside) {
  EXPECT_EQ(differing("", Numbers(5).print()), Differences{});
}

}  // namespace
}  // namespace espalier
