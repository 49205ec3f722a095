#include "espalier/model/unit_order.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "family_fixture.h"

namespace espalier {
namespace {

std::vector<std::string> prunable_names(const Model& model) {
  std::vector<std::string> names;
  for (const int axis : prunable_axes(model)) {
    names.push_back(model.layout->axes[static_cast<std::size_t>(axis)].name);
  }
  return names;
}

using Names = std::vector<std::string>;
const DataShape kColour{{3, 32, 32}, 10};

TEST(PrunableAxes, AreHiddenUnitsThatOneLayerReads) {
  EXPECT_EQ(prunable_names(make({{"name", "cnn"}})), (Names{"conv1", "conv2", "features"}));
  EXPECT_EQ(prunable_names(make({{"name", "lenet"}})), (Names{"conv1", "conv2", "fc1", "fc2"}));
  EXPECT_EQ(prunable_names(make({{"name", "mlp"}, {"hidden", "30, 20"}})),
            (Names{"hidden1", "hidden2"}));
  EXPECT_EQ(prunable_names(make({{"name", "vgg"}, {"width", "4"}}, kColour)).size(), 8U);
  EXPECT_EQ(prunable_names(make({{"name", "cnn1d"}, {"channels", "4,5"}}, {{1, 4096}, 10})),
            (Names{"conv1", "conv2"}));
  // Of an lstm the units, which the layer itself reads too, but not the embedding.
  EXPECT_EQ(prunable_names(make({{"name", "lstm"}, {"hidden", "5,6"}}, {{7}, 9, 9, true})),
            (Names{"lstm.0", "lstm.1"}));
  // With exits, a classifier reads the channels too.
  EXPECT_EQ(prunable_names(make({{"name", "cnn"}, {"exits", "2"}})),
            (Names{"conv1", "conv2", "features"}));
}

TEST(PrunableAxes, OfResidualNetworksAreInsideTheBlocks) {
  const Model plain = make({{"name", "resnet"}, {"depth", "18"}, {"width", "4"}}, kColour);
  EXPECT_EQ(prunable_names(plain),
            (Names{"layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.1.conv1",
                   "layer3.0.conv1", "layer3.1.conv1", "layer4.0.conv1", "layer4.1.conv1"}));
  const Model bottleneck = make({{"name", "resnet"}, {"depth", "50"}, {"width", "4"}}, kColour);
  const Names names = prunable_names(bottleneck);
  EXPECT_EQ(names.size(), 32U);
  for (const std::string& name : names) {
    EXPECT_TRUE(name.ends_with(".conv1") || name.ends_with(".conv2")) << name;
  }
}

TEST(PrunableAxes, OfTransformersAreHeadsAndHiddenNeurons) {
  for (const std::string fused : {"true", "false"}) {
    const Model model = make(
        {{"name", "vit"}, {"depth", "2"}, {"embed", "24"}, {"heads", "3"}, {"fused_qkv", fused}},
        kColour);
    std::vector<int> expected;
    for (const TransformerAxes& axes : model.transformer) {
      expected.insert(expected.end(), {axes.heads, axes.hidden});
    }
    EXPECT_EQ(prunable_axes(model), expected);
  }
}

/// The incoming weights of each unit as the rows of a matrix.
at::Tensor rows(const Named& p, const std::string& name) { return p[name].flatten(1); }

void expect_scores(const std::vector<double>& scores, const at::Tensor& expected) {
  ASSERT_EQ(std::ssize(scores), expected.numel());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    EXPECT_NEAR(scores[i], expected[static_cast<std::int64_t>(i)].item<double>(), 1e-5) << i;
  }
}

std::span<const float> values_of(const Parameters& p) {
  return {p.data(), static_cast<std::size_t>(p.buffer_layout().size())};
}

TEST(UnitScores, EqualTheirFormulasInTensors) {
  const Model model = make({{"name", "cnn"}, {"channels", "6,5"}, {"features", "7"}});
  Parameters p = full_values(model);
  const Named named(model, p);
  const auto score = [&](Importance importance) {
    return unit_scores(model, p.buffer_layout(), values_of(p), importance);
  };
  const at::Tensor conv2 = rows(named, "conv2.weight").to(at::kDouble);
  const auto over_mean = [](const at::Tensor& x) { return x / x.mean(); };
  expect_scores(score(Importance::norm)[1], over_mean(conv2.abs().sum(1)));
  expect_scores(score(Importance::scale)[1], over_mean(conv2.norm(2, 1)));
  expect_scores(score(Importance::median)[1], over_mean(at::cdist(conv2, conv2).sum(1)));
  expect_scores(score(Importance::index)[1], at::tensor({1.0, 0.8, 0.6, 0.4, 0.2}));

  Parameters g = full_values(model);
  g.flat().mul_(g.flat().cos());
  const Named gradient(model, g);
  expect_scores(
      unit_scores(model, p.buffer_layout(), values_of(p), Importance::taylor, values_of(g))[1],
      over_mean((conv2 * rows(gradient, "conv2.weight")).sum(1).abs()));
}

TEST(UnitScores, ScalesAreOfTheUnitsNorm) {
  const Model model =
      make({{"name", "resnet"}, {"depth", "18"}, {"width", "4"}, {"norm", "batch"}}, kColour);
  Parameters p = full_values(model);
  const Named named(model, p);
  named["layer2.0.bn1.weight"].copy_(at::linspace(-1, 1, 8));
  expect_scores(unit_scores(model, p.buffer_layout(), values_of(p), Importance::scale)[2],
                at::linspace(-1, 1, 8).abs());
}

TEST(UnitScores, OfASubmodelPutMissingUnitsFirst) {
  const Model model = make({{"name", "mlp"}, {"hidden", "6"}});
  Submodel part = Submodel::full(*model.layout);
  part.keep(prunable_axes(model)[0], {1, 2, 5});
  Parameters p = values_of(model, part);
  p.flat().uniform_(0.5, 1);
  const UnitScores scores = unit_scores(model, p.buffer_layout(), values_of(p), Importance::norm);
  EXPECT_LT(scores[0][0], 0);
  EXPECT_GT(scores[0][1], 0);
  const UnitOrder order(model, scores, 0);
  EXPECT_EQ(order.without(3), part);
}

/// Heads of a fused layer [3, heads, columns]: each of the three parts counts.
TEST(UnitScores, OfAHeadCountQueriesKeysAndValues) {
  const Model model =
      make({{"name", "vit"}, {"depth", "1"}, {"embed", "24"}, {"heads", "3"}}, kColour);
  Parameters p = full_values(model);
  const Named named(model, p);
  const at::Tensor qkv = named["blocks.0.attn.qkv.weight"].to(at::kDouble).view({3, 3, 8, 24});
  const at::Tensor expected = qkv.abs().sum(at::IntArrayRef{0, 2, 3});
  expect_scores(unit_scores(model, p.buffer_layout(), values_of(p), Importance::norm)[0],
                expected / expected.mean());
}

struct Case {
  const char* name;
  Settings settings;
};

/// Every prefix: nested submodels, values that come back where they were, a model that runs.
TEST(UnitOrder, PrefixesAreNestedAndPackWithoutLoss) {
  const Case cases[] = {
      {"cnn", {{"name", "cnn"}, {"channels", "5,4"}, {"features", "9"}, {"norm", "batch"}}},
      {"resnet", {{"name", "resnet"}, {"depth", "18"}, {"width", "2"}, {"norm", "batch"}}},
      {"vit", {{"name", "vit"}, {"depth", "2"}, {"embed", "12"}, {"heads", "3"}, {"mlp", "7"}}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const Model model = make(c.settings, kColour);
    Parameters full = full_values(model);
    const UnitOrder order(model, random_scores(model, {3, kTest}), 0.2);
    const UnitOrder again = UnitOrder::decode(model, order.encode());
    Submodel last = Submodel::full(*model.layout);
    double retention = 1;
    for (std::int64_t removed = 0; removed <= order.size(); ++removed) {
      const Submodel part = order.without(removed);
      EXPECT_EQ(part, again.without(removed));
      EXPECT_TRUE(part.inside(last));
      EXPECT_EQ(part == last, removed == 0);
      EXPECT_LE(order.retention(removed), retention);
      retention = order.retention(removed);
      EXPECT_EQ(order.removed_for(retention), removed);
      last = part;

      Parameters packed = values_of(model, part);
      Plan(full.buffer_layout(), packed.buffer_layout()).copy(full.data(), packed.data());
      Parameters back = full_values(model);
      Plan(packed.buffer_layout(), back.buffer_layout()).copy(packed.data(), back.data());
      EXPECT_TRUE(same_bits(back.flat(), full.flat()));
      if (removed % 5 != 0) continue;
      Context context;
      context.mode = Mode::train;
      EXPECT_EQ(forward(model, packed, at::rand({2, 3, 32, 32}), context).size(1), 10);
    }
    EXPECT_EQ(order.removed_for(0), order.size());
    for (const int axis : prunable_axes(model)) {
      const double units = static_cast<double>(last.full_width(axis));
      EXPECT_EQ(last.width(axis),
                std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(0.2 * units))));
    }
  }
}

TEST(UnitOrder, RemovesTheLeastImportantFirst) {
  const Model model = make({{"name", "mlp"}, {"hidden", "4, 2"}});
  const std::vector<int> axes = prunable_axes(model);
  const UnitOrder order(model, {{0.4, 0.1, 0.3, 0.9}, {0.2, 0.5}}, 0);
  const auto kept = [&](std::int64_t removed, std::size_t axis) {
    const Submodel part = order.without(removed);
    const auto units = part.units(axes[axis]);
    return std::vector<std::int64_t>(units.begin(), units.end());
  };
  using Units = std::vector<std::int64_t>;
  EXPECT_EQ(kept(1, 0), (Units{0, 2, 3}));
  EXPECT_EQ(kept(2, 1), (Units{1}));
  EXPECT_EQ(kept(4, 0), (Units{3}));
  EXPECT_EQ(order.size(), 4);  // one unit of each layer stays
  // By layer: equal fractions of both.
  const UnitOrder even(model, ranks_by_axis({{0.4, 0.1, 0.3, 0.9}, {0.2, 0.5}}), 0);
  EXPECT_EQ(even.without(3).width(axes[0]), 2);
  EXPECT_EQ(even.without(3).width(axes[1]), 1);
}

TEST(UnitOrder, DamagedCodesAreRefused) {
  const Model model = make({{"name", "mlp"}, {"hidden", "4"}});
  const std::vector<std::int64_t> code{prunable_axes(model)[0], 4};
  EXPECT_THROW(UnitOrder::decode(model, code), DataError);
}

}  // namespace
}  // namespace espalier
