// Classifiers between the blocks, and cuts in depth that end at one of them.
#include "espalier/base/error.h"
#include "family_fixture.h"

namespace espalier {
namespace {

const DataShape kImages{{3, 16, 16}, 10};
const DataShape kNews{{20}, 4, 200, false};

const std::vector<std::pair<Settings, DataShape>> kModels{
    {{{"name", "vit"}, {"depth", "5"}, {"embed", "32"}, {"heads", "2"}, {"exits", "3"}}, kImages},
    {{{"name", "cnn"},
      {"channels", "4,8,8,6,8"},
      {"features", "16"},
      {"kernel", "3"},
      {"exits", "3"}},
     {{3, 32, 32}, 10}},
    {{{"name", "encoder"}, {"depth", "5"}, {"embed", "32"}, {"heads", "2"}, {"exits", "3"}}, kNews},
    {{{"name", "cnn1d"},
      {"channels", "4,8,8,6,8,9"},
      {"kernel", "3"},
      {"first_kernel", "9"},
      {"first_stride", "2"},
      {"pool", "2"},
      {"exits", "3"}},
     {{2, 500}, 10}},
    {{{"name", "lstm"}, {"layers", "5"}, {"embed", "12"}, {"hidden", "12"}, {"exits", "3"}},
     kNews}};

at::Tensor samples(const Model& model) {
  return model.shape.vocabulary > 0
             ? at::arange(3 * 20, at::kLong).remainder(model.shape.vocabulary).view({3, 20})
             : images(3, model.shape.sample);
}

TEST(Exits, StandAtEqualDistancesAndHaveNamesOfTheirOwn) {
  const Model model = make(kModels[0].first, kModels[0].second);
  std::vector<int> depths;
  for (const Exit& exit : model.exits) depths.push_back(exit.depth);
  EXPECT_EQ(depths, (std::vector<int>{1, 3, 5}));  // floor(5 k / 3)
  EXPECT_EQ(model.layout->blocks[static_cast<std::size_t>(model.exits[1].block)], "exits.1");
  EXPECT_EQ(model.layout->blocks[static_cast<std::size_t>(model.exits[2].block)], "head");
  const Model plain =
      make({{"name", "vit"}, {"depth", "5"}, {"embed", "32"}, {"heads", "2"}}, kImages);
  // A norm and a linear layer more for each.
  EXPECT_EQ(trainable_count(model) - trainable_count(plain), 2 * (2 * 32 + 32 * 10 + 10));
}

TEST(Exits, BlocksCanBeLeftOutInTurnWhereTheyKeepTheShape) {
  EXPECT_TRUE(make(kModels[0].first, kModels[0].second).depth_keeps_shape);
  EXPECT_FALSE(make(kModels[1].first, kModels[1].second).depth_keeps_shape);  // they pool
  EXPECT_TRUE(make(kModels[2].first, kModels[2].second).depth_keeps_shape);
  EXPECT_FALSE(make(kModels[3].first, kModels[3].second).depth_keeps_shape);
  // These convolutions have outputs of the shape of their inputs only while all are whole.
  EXPECT_FALSE(make({{"name", "cnn1d"},
                     {"channels", "4,4,4"},
                     {"kernel", "1"},
                     {"first_kernel", "1"},
                     {"first_stride", "1"},
                     {"pool", "1"},
                     {"exits", "2"}},
                    {{2, 9}, 10})
                   .depth_keeps_shape);
  // Each layer of an lstm reads the units of the one before, of which a submodel may keep others
  // than of its own, or another number.
  EXPECT_FALSE(make(kModels[4].first, kModels[4].second).depth_keeps_shape);
}

TEST(Exits, LeaveTheModelAsItIs) {
  for (const auto& [settings, shape] : kModels) {
    const Model model = make(settings, shape);
    Settings without = settings;
    without.erase("exits");
    const Model plain = make(without, shape);
    const at::Tensor x = samples(model);
    EXPECT_TRUE(same_bits(run(model, full_values(model), x), run(plain, full_values(plain), x)));
  }
}

TEST(Exits, AModelCutInDepthAnswersByTheLastThatItKeeps) {
  for (const auto& [settings, shape] : kModels) {
    const Model model = make(settings, shape);
    const Parameters full = full_values(model);
    const at::Tensor x = samples(model);
    c10::NoGradGuard no_grad;
    std::vector<at::Tensor> exits;
    Context context;
    context.exits = &exits;
    exits.push_back(forward(model, full, x, context));
    EXPECT_EQ(exits.size(), 3U);
    for (std::size_t k = 0; k < exits.size(); ++k) {
      const Submodel cut = cut_depth(model, model.exits[k].depth);
      EXPECT_EQ(model.answer(cut), model.exits[k].block);
      std::vector<at::Tensor> shallower;
      Context own;
      own.exits = &shallower;
      EXPECT_TRUE(same_bits(forward(model, sliced(model, full, cut), x, own), exits[k]));
      EXPECT_EQ(shallower.size(), k);
      if (k > 0) {
        EXPECT_FALSE(same_bits(exits[k], exits[k - 1]));
      }
    }
    EXPECT_EQ(cut_depth(model, 4), cut_depth(model, 3));  // nothing after the last exit
  }
}

TEST(Exits, AModelWithoutThemAnswersByItsHeadAtAnyDepth) {
  const Model model =
      make({{"name", "vit"}, {"depth", "3"}, {"embed", "32"}, {"heads", "2"}}, kImages);
  for (const std::int64_t depth : {0, 1, 3}) {
    const Submodel cut = cut_depth(model, depth);
    EXPECT_EQ(model.answer(cut), model.exits.back().block);
    EXPECT_EQ(cut.has_block(model.transformer[2].block), depth == 3);
  }
}

TEST(Exits, BadNumbersAreRefused) {
  EXPECT_THROW(make({{"name", "vit"}, {"depth", "3"}, {"exits", "4"}}, kImages), InputError);
  EXPECT_THROW(make({{"name", "lenet"}, {"exits", "2"}}), InputError);
  // The first convolution always stays, so two have room for one classifier only.
  EXPECT_THROW(make({{"name", "cnn1d"}, {"channels", "4,4"}, {"exits", "2"}}, {{1, 16000}, 10}),
               InputError);
}

}  // namespace
}  // namespace espalier
