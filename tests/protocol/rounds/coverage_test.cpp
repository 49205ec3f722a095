#include "espalier/protocol/rounds/coverage.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "espalier/protocol/rounds/merge.h"
#include "espalier/train/trainer.h"
#include "purpose.h"

namespace espalier::rounds {
namespace {

constexpr std::int64_t kHidden = 300, kOut = 41;  // more values than one block of a merge

/// A model of two layers with two axes to cut, and updates of its submodels.
struct Scene {
  Scene() {
    auto layout = std::make_shared<Layout>();
    const int in = layout->add_axis("in", 5, false);
    hidden = layout->add_axis("hidden", kHidden);
    out = layout->add_axis("out", kOut);
    const int block = layout->add_block("all");
    const auto along = [&](int axis) { return layout->along(axis); };
    layout->add_entry({"a", Kind::trainable, block, {along(hidden), along(in)}, {}});
    layout->add_entry({"b", Kind::trainable, block, {along(out), along(hidden)}, {}});
    experiment.model.layout = layout;
    experiment.plans = std::make_unique<PlanCache>(layout);
    model = Parameters(experiment.plans->buffer_layout(Submodel::full(*layout), Packing::aligned));
  }

  /// An update of `n` units of each axis, drawn by the key, with random differences from what was
  /// sent.
  Update update(std::int64_t hidden_units, std::int64_t out_units, std::uint64_t key) {
    Stream stream(1, kTest, key);
    Submodel submodel = Submodel::full(*experiment.model.layout);
    submodel.keep(hidden, stream.choose(hidden_units, kHidden));
    submodel.keep(out, stream.choose(out_units, kOut));
    Update u;
    u.buffer_layout = experiment.plans->buffer_layout(submodel, Packing::dense);
    u.sent = random_values(*u.buffer_layout, stream);
    u.values = random_values(*u.buffer_layout, stream);
    return u;
  }

  static SharedBytes random_values(const BufferLayout& dense, Stream& stream) {
    auto bytes = std::make_shared<Bytes>(static_cast<std::size_t>(payload_bytes(dense)));
    for (float& value : floats_of(*bytes)) value = static_cast<float>(stream.normal());
    return bytes;
  }

  /// The differences of an update by (entry, row, column) of the model, without a plan.
  std::map<std::vector<std::int64_t>, double> differences(const Update& u) const {
    std::map<std::vector<std::int64_t>, double> found;
    const Submodel& submodel = u.buffer_layout->submodel();
    const auto units = [&](int axis) {
      const auto kept = submodel.units(axis);
      std::vector<std::int64_t> list(kept.begin(), kept.end());
      for (std::int64_t i = 0; submodel.is_full(axis) && i < submodel.full_width(axis); ++i) {
        list.push_back(i);
      }
      return list;
    };
    const float* values = floats_of(*u.values).data();
    const float* sent = floats_of(*u.sent).data();
    const std::vector<std::pair<int, int>> entries{{hidden, 0}, {out, hidden}};
    for (int entry = 0; entry < 2; ++entry) {
      const auto [rows, columns] = entries[static_cast<std::size_t>(entry)];
      for (const std::int64_t row : units(rows)) {
        for (const std::int64_t column : units(columns)) {
          found[{entry, row, column}] =
              static_cast<double>(*values++) - static_cast<double>(*sent++);
        }
      }
    }
    return found;
  }

  Experiment experiment;
  Parameters model;
  int hidden = 0, out = 0;
};

TEST(Coverage, CountsTheHoldersOfEachParameter) {
  Scene s;
  const std::vector<Update> updates{s.update(150, 20, 1), s.update(kHidden, kOut, 2),
                                    s.update(40, 7, 3)};
  std::map<std::vector<std::int64_t>, int> holders;
  for (const Update& u : updates) {
    for (const auto& [place, difference] : s.differences(u)) ++holders[place];
  }
  double sum = 0;
  int least = 99;
  for (const auto& [place, number] : holders) {
    sum += number;
    least = std::min(least, number);
  }
  const Coverage found = coverage(s.experiment, s.model.buffer_layout(), updates);
  EXPECT_EQ(found.minimum, least);
  EXPECT_DOUBLE_EQ(found.mean, sum / static_cast<double>(holders.size()));
}

TEST(EverTrained, IsTheUnionOfAllUpdates) {
  Scene s;
  const BufferLayout& full = s.model.buffer_layout();
  const auto all = static_cast<double>(full.count(Kind::trainable));
  EverTrained covered;
  covered.add(s.experiment, full, {});
  EXPECT_EQ(covered.share(), 0);
  std::set<std::vector<std::int64_t>> seen;
  for (std::uint64_t window = 0; window < 6; ++window) {
    const std::vector<Update> updates{s.update(30, 5, 2 * window), s.update(90, 9, 2 * window + 1)};
    for (const Update& u : updates) {
      for (const auto& [place, difference] : s.differences(u)) seen.insert(place);
    }
    covered.add(s.experiment, full, updates);
    EXPECT_EQ(covered.share(), static_cast<double>(seen.size()) / all) << "window " << window;
  }
  EXPECT_LT(covered.share(), 1);
  covered.add(s.experiment, full, std::vector{s.update(kHidden, kOut, 99)});
  EXPECT_EQ(covered.share(), 1);
}

TEST(EverTrained, ContinuesFromAnArchive) {
  Scene s;
  const BufferLayout& full = s.model.buffer_layout();
  for (const std::int64_t out_units : {std::int64_t{5}, kOut}) {  // in part, and all of the model
    EverTrained straight;
    straight.add(s.experiment, full,
                 std::vector{s.update(out_units == kOut ? kHidden : 70, out_units, 1)});
    ByteArchive saved;
    straight.archive(saved);
    const Bytes bytes = saved.take();
    EverTrained restored;
    ByteArchive source(bytes);
    restored.archive(source);
    EXPECT_TRUE(source.at_end());
    const std::vector<Update> next{s.update(100, 11, 2)};
    straight.add(s.experiment, full, next);
    restored.add(s.experiment, full, next);
    EXPECT_EQ(restored.share(), straight.share());
  }
}

TEST(Agreement, IsTheMeanCosineOnCommonParameters) {
  Scene s;
  const std::vector<Update> updates{s.update(150, 20, 1), s.update(kHidden, kOut, 2),
                                    s.update(40, 7, 3)};
  double sum = 0;
  for (const auto& [i, j] : {std::pair{0, 1}, {0, 2}, {1, 2}}) {
    const auto a = s.differences(updates[static_cast<std::size_t>(i)]);
    const auto b = s.differences(updates[static_cast<std::size_t>(j)]);
    double product = 0, first = 0, second = 0;
    for (const auto& [place, x] : a) {
      const auto y = b.find(place);
      if (y == b.end()) continue;
      product += x * y->second;
      first += x * x;
      second += y->second * y->second;
    }
    sum += product / std::sqrt(first * second);
  }
  // The orders of addition differ: 14,000 terms of 1e-16 each, relative to norms of 1.
  EXPECT_NEAR(agreement(s.experiment, s.model, updates), sum / 3, 1e-12);
}

TEST(Agreement, OfEqualAndOppositeUpdates) {
  Scene s;
  const Update u = s.update(150, 20, 1);
  Update back = u;
  std::swap(back.values, back.sent);
  // The cosine of a vector with itself is sqrt(x) sqrt(x) / x up to two roundings.
  EXPECT_NEAR(agreement(s.experiment, s.model, std::vector{u, u}), 1, 1e-15);
  EXPECT_NEAR(agreement(s.experiment, s.model, std::vector{u, back}), -1, 1e-15);
}

TEST(Agreement, LeavesOutPairsWithoutCommonChanges) {
  Scene s;
  const Update u = s.update(150, 20, 1);
  Update idle = u;
  idle.values = idle.sent;
  EXPECT_TRUE(std::isnan(agreement(s.experiment, s.model, {})));
  EXPECT_TRUE(std::isnan(agreement(s.experiment, s.model, std::vector{u})));
  EXPECT_TRUE(std::isnan(agreement(s.experiment, s.model, std::vector{u, idle})));
  EXPECT_NEAR(agreement(s.experiment, s.model, std::vector{u, idle, u}), 1, 1e-15);
}

}  // namespace
}  // namespace espalier::rounds
