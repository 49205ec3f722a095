// The choice of a common mask: cases by hand, and its optimality against all other choices.

#include "espalier/method/pruning.h"

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/base/random.h"
#include "purpose.h"

namespace espalier::rounds {
namespace {

using Mask = std::vector<std::uint8_t>;

TEST(AdjustMasks, DropsSmallWeightsUnlessTheirGradientPays) {
  // Drops floor(0.3 x 7) = 2 of 7: the magnitudes 0.1 and 0.2. Base: squares 5, time 1 + 5 = 6.
  PrunableLayer layer{1,
                      {0.5, 0.1, 0.6, 0.2, 0.7, 0.8, 0.9, 0, 0, 0},
                      {1, 0.1, 1, 3, 1, 1, 1, 2, 0.9, 1.2},
                      Mask{1, 1, 1, 1, 1, 1, 1, 0, 0, 0}};
  std::vector<PrunableLayer> layers{layer};
  adjust_masks(layers, 0.3, 0, 1);
  // 3 > 5/6, 2 > 8/7, 1.2 < 10/8 = 1.25: stop.
  EXPECT_EQ(layers[0].kept, (Mask{1, 0, 1, 1, 1, 1, 1, 1, 0, 0}));
  // Squares of parameters that are never pruned make the objective larger.
  layers = {layer};
  adjust_masks(layers, 0.3, 13.5, 1);  // 18.5/6 = 3.08
  EXPECT_EQ(layers[0].kept, (Mask{1, 0, 1, 0, 1, 1, 1, 0, 0, 0}));
  // A large constant: every gradient pays.
  layers = {layer};
  adjust_masks(layers, 0.3, 0, 1e6);
  EXPECT_EQ(layers[0].kept, Mask(10, 1));
}

TEST(AdjustMasks, WeighsLayersByTheirTimes) {
  const PrunableLayer cheap{1, {1, 1}, {1, 2}, Mask{1, 0}};
  const PrunableLayer dear{4, {1, 1}, {1, 6}, Mask{1, 0}};
  std::vector<PrunableLayer> layers{dear, cheap};
  adjust_masks(layers, 0, 0, 1);
  // Base 2 / 6. Quotients 2 (cheap) and 1.5 (dear): 2 > 1/3, then 1.5 > 4/7.
  EXPECT_EQ(layers[0].kept, (Mask{1, 1}));
  EXPECT_EQ(layers[1].kept, (Mask{1, 1}));
  layers = {dear, cheap};
  adjust_masks(layers, 0, 9, 1);  // base 11/6 = 1.83: 2 pays, 1.5 not: 13/7
  EXPECT_EQ(layers[0].kept, (Mask{1, 0}));
  EXPECT_EQ(layers[1].kept, (Mask{1, 1}));
}

TEST(AdjustMasks, NoOtherChoiceHasMoreSquaresOverTime) {
  for (std::int64_t trial = 0; trial < 200; ++trial) {
    Stream stream(1, kTest, trial);
    std::vector<PrunableLayer> layers(2);
    for (PrunableLayer& layer : layers) {
      layer.time_s = 0.2 + stream.uniform();
      for (int i = 0; i < 6; ++i) {
        layer.kept.push_back(stream.uniform() < 0.6 ? 1 : 0);
        layer.magnitudes.push_back(static_cast<float>(stream.uniform()));
        layer.squares.push_back(stream.uniform());
      }
    }
    const double others = stream.uniform(), constant = 3 * stream.uniform();
    const auto value = [&](const std::vector<Mask>& masks) {
      double squares = others, time = constant;
      for (std::size_t l = 0; l < layers.size(); ++l) {
        for (std::size_t i = 0; i < masks[l].size(); ++i) {
          squares += masks[l][i] * layers[l].squares[i];
          time += masks[l][i] * layers[l].time_s;
        }
      }
      return squares / time;
    };
    // Kept by their magnitude: the same as with candidates that have no gradient.
    std::vector<PrunableLayer> base = layers, adjusted = layers;
    for (PrunableLayer& layer : base) std::fill(layer.squares.begin(), layer.squares.end(), 0.0);
    adjust_masks(base, 0.4, 0, 1);
    adjust_masks(adjusted, 0.4, others, constant);
    std::vector<std::pair<std::size_t, std::size_t>> open;
    std::vector<Mask> masks;
    for (std::size_t l = 0; l < 2; ++l) {
      masks.push_back(base[l].kept);
      std::int64_t before = 0, after = 0;
      for (std::size_t i = 0; i < 6; ++i) {
        before += layers[l].kept[i];
        after += base[l].kept[i];
        if (base[l].kept[i] == 0) open.emplace_back(l, i);
      }
      EXPECT_EQ(before - after, static_cast<std::int64_t>(0.4 * static_cast<double>(before)));
    }
    const double found = value({adjusted[0].kept, adjusted[1].kept});
    for (std::size_t choice = 0; choice < (std::size_t{1} << open.size()); ++choice) {
      std::vector<Mask> other = masks;
      for (std::size_t k = 0; k < open.size(); ++k) {
        if ((choice >> k) & 1) other[open[k].first][open[k].second] = 1;
      }
      EXPECT_LE(value(other), found * (1 + 1e-12)) << trial;
    }
  }
}

}  // namespace
}  // namespace espalier::rounds
