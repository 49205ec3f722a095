// The merge of Co-S2P: weights by importance over drift, and their effect on the model.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "merge_scene.h"

namespace espalier::rounds {
namespace {

constexpr const char* kRule = "importance_drift";

std::vector<double> weights(Scene& s, const std::string& settings, std::vector<Update> updates) {
  s.reset();
  s.rule(kRule, settings)->merge(s.experiment, s.model, updates);
  std::vector<double> weights;
  for (const Update& u : updates) weights.push_back(u.weight);
  return weights;
}

TEST(ImportanceOverDrift, WeightsGrowWithTheDifferenceAndFallWithTheShare) {
  Scene s;
  const std::vector<std::int64_t> units{0, 1, 2, 3};
  for (const std::string normalise : {"holders", "updates"}) {
    const std::string settings = "normalise = " + normalise + "\n";
    const auto w =
        weights(s, settings,
                {s.update(units, 0.1, 0.5), s.update(units, 0.2, 0.5), s.update(units, 0.1, 0.25)});
    EXPECT_NEAR(w[1], 2 * w[0], 1e-5);
    EXPECT_NEAR(w[2], 2 * w[0], 1e-5);
    EXPECT_NEAR(w[0] + w[1] + w[2], 1, 1e-12);
    const auto plain = weights(s, settings + "capability = false\n",
                               {s.update(units, 0.1, 0.5), s.update(units, 0.1, 0.25)});
    EXPECT_NEAR(plain[0], 0.5, 1e-6);
    const auto uniform = weights(s, settings + "capability = false\nimportance = false\n",
                                 {s.update(units, 0.1, 0.5), s.update(units, 7, 0.25)});
    EXPECT_DOUBLE_EQ(uniform[0], 0.5);
  }
}

TEST(ImportanceOverDrift, OnlyAgeLowersAWeight) {
  Scene s;
  const std::vector<std::int64_t> units{0, 5, 9};
  for (const std::string drift : {"relative", "literal", "polynomial"}) {
    std::vector<Update> updates{s.update(units, 0.1, 1), s.update(units, 0.1, 1)};
    // The model has moved since the base version of one of them.
    s.reset();
    Parameters& now = s.model;
    const Range range = now.buffer_layout().kind_range(Kind::trainable);
    for (std::int64_t i = range.begin; i < range.end; ++i) now.data()[i] *= 1.01F;
    updates[1].staleness = 3;
    updates[0].sent = pack_payload(*s.experiment.plans, now, *updates[0].buffer_layout);
    auto moved = std::make_shared<Bytes>(*updates[0].sent);
    auto* values = reinterpret_cast<float*>(moved->data());
    for (std::int64_t i = 0; i < updates[0].buffer_layout->count(Kind::trainable); ++i)
      values[i] += 0.1F;
    updates[0].values = moved;
    s.rule(kRule, "drift = " + drift + "\n")->merge(s.experiment, s.model, updates);
    EXPECT_LT(updates[1].weight, 0.95 * updates[0].weight) << drift;
    EXPECT_NEAR(updates[0].weight + updates[1].weight, 1, 1e-12) << drift;
  }
}

TEST(ImportanceOverDrift, ExtremeDifferencesCanBeClippedToTheMedian) {
  Scene s;
  const std::vector<std::int64_t> units{0, 1};
  const auto w =
      weights(s, "importance_clip = 2\n",
              {s.update(units, 0.1, 1), s.update(units, 0.1, 1), s.update(units, 50, 1)});
  EXPECT_NEAR(w[2], 2 * w[0], 1e-5);
}

TEST(ImportanceOverDrift, OverUpdatesASingleHolderMovesByItsWeightOnly) {
  Scene s;
  const std::string settings = "capability = false\nimportance = false\n";
  // Unit 0 has two holders, unit 1 one, unit 2 none.
  const auto updates = [&] {
    return std::vector<Update>{s.update({0, 1}, 0.4, 1), s.update({0}, 0.8, 1)};
  };
  weights(s, settings + "normalise = updates\n", updates());
  EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + 0.6, 1e-6);
  EXPECT_NEAR(s.value(0, 4), s.first(0, 4) + 0.2, 1e-6);
  EXPECT_EQ(s.value(0, 8), s.first(0, 8));
  weights(s, settings + "normalise = holders\n", updates());
  EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + 0.6, 1e-6);
  EXPECT_NEAR(s.value(0, 4), s.first(0, 4) + 0.4, 1e-6);
  EXPECT_EQ(s.value(0, 8), s.first(0, 8));
}

TEST(ImportanceOverDrift, AStaleSingleHolderIsStillDamped) {
  Scene s;
  std::vector<Update> updates{s.update({0, 1}, 0.4, 1)};
  updates[0].staleness = 3;
  s.rule(kRule, "drift = polynomial\n")->merge(s.experiment, s.model, updates);
  EXPECT_DOUBLE_EQ(updates[0].weight, 1);
  EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + 0.4 / 2, 1e-6);  // 1 / sqrt(1 + 3)
}

TEST(ImportanceOverDrift, UpdatesThatDidNotMoveLeaveTheModelToTheLastBit) {
  Scene s;
  for (const std::string normalise : {"holders", "updates"}) {
    for (const std::string importance : {"true", "false"}) {
      weights(s, "normalise = " + normalise + "\nimportance = " + importance + "\n",
              {s.update({0, 1, 7}, 0, 0.3), s.update({1, 30}, 0, 0.7), s.update({1}, 0, 1)});
      EXPECT_EQ(
          std::memcmp(s.model.data(), s.before.data(),
                      static_cast<std::size_t>(s.model.buffer_layout().size()) * sizeof(float)),
          0)
          << normalise << importance;
    }
  }
}

}  // namespace
}  // namespace espalier::rounds
