// The merge of Co-S2P: weights by importance over drift, and what they do to the model.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "espalier/method/register.h"
#include "espalier/model/model.h"
#include "espalier/train/client.h"

namespace espalier {
namespace {

/// Two layers, updates of random submodels of them, and a model that the updates started from.
struct Scene {
  Scene() {
    auto made = std::make_shared<Layout>();
    const int in = made->add_axis("in", 4, false);
    hidden = made->add_axis("hidden", 60);
    const int out = made->add_axis("out", 20);
    const int block = made->add_block("all");
    made->add_entry({"a", Kind::trainable, block, {made->along(hidden), made->along(in)}, {}});
    made->add_entry({"b", Kind::trainable, block, {made->along(out), made->along(hidden)}, {}});
    layout = made;
    experiment.plans = std::make_unique<PlanCache>(layout);
    const auto full = experiment.plans->geometry(Submodel::full(*layout), Packing::aligned);
    model = Parameters(full);
    before = Parameters(full);
    Stream stream(1, purpose("test"));
    const auto plan =
        experiment.plans->plan(*full, *full);  // of values, not of padding: that stays zero
    for (const Plan::Run& run : plan->runs()) {
      for (std::int64_t i = 0; i < run.length; ++i) {
        before.data()[run.source + i] = static_cast<float>(stream.normal());
      }
    }
    reset();
  }

  void reset() {
    std::memcpy(model.data(), before.data(),
                static_cast<std::size_t>(model.geometry().size()) * sizeof(float));
  }

  /// An update that moved every value of its submodel by `step`.
  Update update(std::vector<std::int64_t> units, double step, double share) {
    Submodel submodel = Submodel::full(*layout);
    submodel.keep(hidden, std::move(units));
    Update u;
    u.client = u.task = made_++;
    u.geometry = experiment.plans->geometry(submodel, Packing::dense);
    u.sent = pack_payload(*experiment.plans, before, *u.geometry);
    auto trained = std::make_shared<Bytes>(*u.sent);
    auto* values = reinterpret_cast<float*>(trained->data());
    for (std::int64_t i = 0; i < u.geometry->count(Kind::trainable); ++i) {
      values[i] = static_cast<float>(static_cast<double>(values[i]) + step);
    }
    u.values = trained;
    u.samples = 10;
    u.share = share;
    return u;
  }

  std::unique_ptr<MergeRule> rule(const std::string& settings) {
    OptionTable table;
    for (const Option& option : catalogue().options.options()) table.add(option);
    Config config(table);
    config.read_text("[method]\n" + settings, "the test");
    return catalogue().merges.get("importance_drift").value(config, experiment);
  }

  std::vector<double> weights(const std::string& settings, std::vector<Update> updates) {
    reset();
    rule(settings)->merge(experiment, model, updates);
    std::vector<double> weights;
    for (const Update& u : updates) weights.push_back(u.weight);
    return weights;
  }

  double value(int entry, std::int64_t index) const {
    return model[entry].flatten()[index].item<double>();
  }
  double first(int entry, std::int64_t index) const {
    return before[entry].flatten()[index].item<double>();
  }

  Experiment experiment;
  std::shared_ptr<const Layout> layout;
  int hidden = 0;
  Parameters model, before;

 private:
  std::int64_t made_ = 0;
};

TEST(ImportanceOverDrift, WeightsGrowWithTheDifferenceAndFallWithTheShare) {
  Scene s;
  const std::vector<std::int64_t> units{0, 1, 2, 3};
  for (const std::string normalise : {"holders", "updates"}) {
    const std::string settings = "normalise = " + normalise + "\n";
    const auto w = s.weights(settings, {s.update(units, 0.1, 0.5), s.update(units, 0.2, 0.5),
                                        s.update(units, 0.1, 0.25)});
    EXPECT_NEAR(w[1], 2 * w[0], 1e-5);
    EXPECT_NEAR(w[2], 2 * w[0], 1e-5);
    EXPECT_NEAR(w[0] + w[1] + w[2], 1, 1e-12);
    const auto plain = s.weights(settings + "capability = false\n",
                                 {s.update(units, 0.1, 0.5), s.update(units, 0.1, 0.25)});
    EXPECT_NEAR(plain[0], 0.5, 1e-6);
    const auto uniform = s.weights(settings + "capability = false\nimportance = false\n",
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
    const Range range = now.geometry().kind_range(Kind::trainable);
    for (std::int64_t i = range.begin; i < range.end; ++i) now.data()[i] *= 1.01F;
    updates[1].staleness = 3;
    updates[0].sent = pack_payload(*s.experiment.plans, now, *updates[0].geometry);
    auto moved = std::make_shared<Bytes>(*updates[0].sent);
    auto* values = reinterpret_cast<float*>(moved->data());
    for (std::int64_t i = 0; i < updates[0].geometry->count(Kind::trainable); ++i)
      values[i] += 0.1F;
    updates[0].values = moved;
    s.rule("drift = " + drift + "\n")->merge(s.experiment, s.model, updates);
    EXPECT_LT(updates[1].weight, 0.95 * updates[0].weight) << drift;
    EXPECT_NEAR(updates[0].weight + updates[1].weight, 1, 1e-12) << drift;
  }
}

TEST(ImportanceOverDrift, ExtremeDifferencesCanBeClippedToTheMedian) {
  Scene s;
  const std::vector<std::int64_t> units{0, 1};
  const auto w =
      s.weights("importance_clip = 2\n",
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
  s.weights(settings + "normalise = updates\n", updates());
  EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + 0.6, 1e-6);
  EXPECT_NEAR(s.value(0, 4), s.first(0, 4) + 0.2, 1e-6);
  EXPECT_EQ(s.value(0, 8), s.first(0, 8));
  s.weights(settings + "normalise = holders\n", updates());
  EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + 0.6, 1e-6);
  EXPECT_NEAR(s.value(0, 4), s.first(0, 4) + 0.4, 1e-6);
  EXPECT_EQ(s.value(0, 8), s.first(0, 8));
}

TEST(ImportanceOverDrift, AStaleSingleHolderIsStillDamped) {
  Scene s;
  std::vector<Update> updates{s.update({0, 1}, 0.4, 1)};
  updates[0].staleness = 3;
  s.rule("drift = polynomial\n")->merge(s.experiment, s.model, updates);
  EXPECT_DOUBLE_EQ(updates[0].weight, 1);
  EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + 0.4 / 2, 1e-6);  // 1 / sqrt(1 + 3)
}

TEST(ImportanceOverDrift, UpdatesThatDidNotMoveLeaveTheModelToTheLastBit) {
  Scene s;
  for (const std::string normalise : {"holders", "updates"}) {
    for (const std::string importance : {"true", "false"}) {
      s.weights("normalise = " + normalise + "\nimportance = " + importance + "\n",
                {s.update({0, 1, 7}, 0, 0.3), s.update({1, 30}, 0, 0.7), s.update({1}, 0, 1)});
      EXPECT_EQ(std::memcmp(s.model.data(), s.before.data(),
                            static_cast<std::size_t>(s.model.geometry().size()) * sizeof(float)),
                0)
          << normalise << importance;
    }
  }
}

}  // namespace
}  // namespace espalier
