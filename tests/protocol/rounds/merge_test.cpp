#include "espalier/protocol/rounds/merge.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "espalier/protocol/rounds/client_stepper.h"
#include "purpose.h"

namespace espalier::rounds {
namespace {

/// A layout of two cuttable axes, as two linear layers have them.
std::shared_ptr<const Layout> two_layers() {
  auto layout = std::make_shared<Layout>();
  const int in = layout->add_axis("in", 5, false), hidden = layout->add_axis("hidden", 300),
            out = layout->add_axis("out", 40);
  const int block = layout->add_block("all");
  layout->add_entry({"a", Kind::trainable, block, {layout->along(hidden), layout->along(in)}, {}});
  layout->add_entry({"b", Kind::trainable, block, {layout->along(out), layout->along(hidden)}, {}});
  return layout;
}

std::vector<float> random_values(std::int64_t count, std::uint64_t key) {
  Stream stream(1, kTest, key);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(stream.normal());
  return values;
}

TEST(WeightedMean, OfOneHolderIsItsValueExactly) {
  const auto layout = two_layers();
  auto full = std::make_shared<BufferLayout>(layout, Submodel::full(*layout), Packing::aligned);
  const BufferLayout dense(layout, Submodel::full(*layout), Packing::dense);
  const auto values = random_values(dense.size(), 1);
  Parameters model(full);
  const Holding holding{std::make_shared<Plan>(dense, *full), values.data(), 0.1 + 0.2};
  weighted_mean(model, {&holding, 1});
  std::vector<float> back(values.size());
  Plan(*full, dense).copy(std::as_const(model).data(), back.data());
  EXPECT_EQ(back, values);
}

// Holders of the whole model share a plan and one denominator; the values must be those of the
// sums by block, which keep a denominator for each value.
TEST(WeightedMean, OfWholeModelsIsThatOfTheSumsByBlock) {
  const auto layout = two_layers();
  auto full = std::make_shared<BufferLayout>(layout, Submodel::full(*layout), Packing::aligned);
  const BufferLayout dense(layout, Submodel::full(*layout), Packing::dense);
  const auto plan = std::make_shared<Plan>(dense, *full);
  for (const std::vector<double> weights : {std::vector<double>{1, 0.3, 1.7}, {0, 0.1}, {0, 0}}) {
    std::vector<std::vector<float>> values;
    std::vector<Holding> holdings;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      values.push_back(random_values(dense.size(), 40 + i));
      values.back()[11] = -0.0f;
      values.back()[600 + i] = std::numeric_limits<float>::infinity();
      holdings.push_back({plan, values.back().data(), weights[i]});
    }
    Parameters model(full), expected(full);
    for (Parameters* p : {&model, &expected}) {
      for (std::int64_t i = 0; i < full->size(); ++i) p->data()[i] = 7;
    }
    weighted_mean(model, holdings);
    BlockSums sums;
    for_each_block(expected, [&](Range range) {
      sums.sum(range, holdings);
      for (std::int64_t j = range.begin; j < range.end; ++j) {
        const auto at = static_cast<std::size_t>(j - range.begin);
        if (sums.denominator[at] > 0) {
          expected.data()[j] = static_cast<float>(sums.numerator[at] / sums.denominator[at]);
        }
      }
    });
    EXPECT_EQ(std::memcmp(model.data(), expected.data(),
                          static_cast<std::size_t>(full->size()) * sizeof(float)),
              0);
  }
}

TEST(WeightedMean, IsTheMeanOverHoldersAndLeavesOthersAlone) {
  const auto layout = two_layers();
  auto full = std::make_shared<BufferLayout>(layout, Submodel::full(*layout), Packing::aligned);
  std::vector<BufferLayout> smalls;
  std::vector<std::vector<float>> values;
  std::vector<Holding> holdings;
  for (int i = 0; i < 3; ++i) {
    Submodel submodel = Submodel::full(*layout);
    Stream stream(1, kTest, 10, static_cast<std::uint64_t>(i));
    submodel.keep(1, stream.choose(100, 300));
    submodel.keep(2, stream.choose(15, 40));
    smalls.emplace_back(layout, submodel, Packing::dense);
    values.push_back(random_values(smalls.back().size(), static_cast<std::uint64_t>(20 + i)));
  }
  Parameters model(full);
  initialise(model, 1);
  for (std::int64_t i = 0; i < full->size(); ++i) model.data()[i] = 7;
  std::vector<double> numerator(static_cast<std::size_t>(full->size()), 0.0),
      denominator = numerator;
  for (std::size_t i = 0; i < smalls.size(); ++i) {
    const double weight = 1.0 + static_cast<double>(i);
    holdings.push_back({std::make_shared<Plan>(smalls[i], *full), values[i].data(), weight});
    // Independent computation: scatter values into a full buffer, and ones to mark their places.
    std::vector<float> wide(static_cast<std::size_t>(full->size()), 0), held = wide;
    holdings.back().plan->copy(values[i].data(), wide.data());
    holdings.back().plan->copy(std::vector<float>(values[i].size(), 1).data(), held.data());
    for (std::size_t j = 0; j < wide.size(); ++j) {
      if (held[j] == 0) continue;
      numerator[j] += weight * static_cast<double>(wide[j]);
      denominator[j] += weight;
    }
  }
  weighted_mean(model, holdings);
  std::int64_t untouched = 0;
  for (std::size_t j = 0; j < numerator.size(); ++j) {
    const float expected =
        denominator[j] > 0 ? static_cast<float>(numerator[j] / denominator[j]) : 7.0f;
    untouched += denominator[j] > 0 ? 0 : 1;
    ASSERT_EQ(std::as_const(model).data()[j], expected) << j;
  }
  EXPECT_GT(untouched, 0);
}

Config staleness_config(const std::string& text) {
  OptionTable table;
  declare_staleness_options(table);
  Config config(std::move(table));
  config.read_text(text, "the test");
  return config;
}

TEST(StalenessWeight, FollowsItsClosedForms) {
  EXPECT_EQ(StalenessWeight(staleness_config(""))(9), 1.0);
  const StalenessWeight root(staleness_config("[method]\nstaleness_power = 0.5\n"));
  EXPECT_EQ(root(0), 1.0);
  EXPECT_DOUBLE_EQ(root(3), 0.5);
  const StalenessWeight hinge(
      staleness_config("[method]\nstaleness = hinge\nhinge_a = 10\nhinge_b = 6\n"));
  EXPECT_EQ(hinge(6), 1.0);
  EXPECT_DOUBLE_EQ(hinge(7), 1.0 / 11);
  EXPECT_DOUBLE_EQ(hinge(16), 1.0 / 101);
}

}  // namespace
}  // namespace espalier::rounds
