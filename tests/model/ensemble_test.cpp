// An ensemble is its members: each computes what the narrow network of its family computes alone.
#include "espalier/model/ensemble.h"

#include "espalier/base/error.h"
#include "family_fixture.h"

namespace espalier {
namespace {

struct Case {
  Settings wide, narrow;  // without model.members; the same network at a quarter of the widths
  DataShape shape;
};

const std::vector<Case> kCases{
    {{{"name", "mlp"}, {"hidden", "12,9"}}, {{"name", "mlp"}, {"hidden", "3,3"}}, {{3, 4}, 5}},
    {{{"name", "cnn"}, {"channels", "8,12"}, {"features", "16"}, {"norm", "batch"}},
     {{"name", "cnn"}, {"channels", "2,3"}, {"features", "4"}, {"norm", "batch"}},
     {{3, 16, 16}, 10}},
    {{{"name", "resnet"}, {"width", "16"}},
     {{"name", "resnet"}, {"width", "4"}},
     {{3, 16, 16}, 10}},
    {{{"name", "vgg"}, {"width", "8"}}, {{"name", "vgg"}, {"width", "2"}}, {{3, 32, 32}, 10}},
    {{{"name", "lstm"}, {"layers", "2"}, {"embed", "8"}, {"hidden", "12"}},
     {{"name", "lstm"}, {"layers", "2"}, {"embed", "2"}, {"hidden", "3"}},
     {{20}, 4, 200, false}}};

Model ensemble_of(const Case& c) {
  Settings settings = c.wide;
  settings["members"] = "4";
  return make(settings, c.shape);
}

at::Tensor samples(const Model& model) {
  return model.shape.vocabulary > 0
             ? at::arange(3 * 20, at::kLong).remainder(model.shape.vocabulary).view({3, 20})
             : images(3, model.shape.sample);
}

/// The narrow network with the values of a member, in the order of the entries.
Parameters alone(const Model& narrow, const Parameters& all, std::size_t member) {
  Parameters p = full_values(narrow);
  const std::size_t entries = narrow.layout->entries.size();
  for (std::size_t i = 0; i < entries; ++i) {
    p[static_cast<int>(i)].copy_(all[static_cast<int>(member * entries + i)]);
  }
  return p;
}

Submodel keeping(const Model& model, const std::vector<int>& members) {
  Submodel submodel = Submodel::full(*model.layout);
  for (std::size_t k = 0; k < model.exits.size(); ++k) {
    const bool kept = std::ranges::find(members, static_cast<int>(k)) != members.end();
    submodel.keep_block(model.exits[k].block, kept);
  }
  return submodel;
}

TEST(Ensemble, MembersAreNetworksOfTheirFamilyWithValuesOfTheirOwn) {
  for (const Case& c : kCases) {
    const Model model = ensemble_of(c);
    const Model narrow = make(c.narrow, c.shape);
    ASSERT_EQ(model.blocks.size(), 4u);
    EXPECT_EQ(trainable_count(model), 4 * trainable_count(narrow));
    const Parameters p = full_values(model);
    EXPECT_FALSE(same_bits(p[0], p[static_cast<int>(narrow.layout->entries.size())]));
    const at::Tensor x = samples(model);
    const Mode mode = model.has_statistics ? Mode::train : Mode::evaluate;
    std::vector<at::Tensor> outputs;
    for (std::size_t k = 0; k < 4; ++k) {
      outputs.push_back(run(narrow, alone(narrow, p, k), x, mode));
      const Parameters one = sliced(model, p, keeping(model, {static_cast<int>(k)}));
      EXPECT_TRUE(same_bits(run(model, one, x, mode), outputs[k])) << c.wide.at("name") << k;
    }
    EXPECT_TRUE(same_bits(run(model, p, x, mode), mean_of(outputs))) << c.wide.at("name");
    const Parameters two = sliced(model, p, keeping(model, {1, 3}));
    EXPECT_TRUE(same_bits(run(model, two, x, mode), (outputs[1] + outputs[3]) / 2.0));
  }
}

TEST(Ensemble, MembersCanBeCutLikeAnyNetwork) {
  const Case& c = kCases[1];
  const Model model = ensemble_of(c);
  const Model narrow = make(c.narrow, c.shape);
  const Parameters p = full_values(model);
  const at::Tensor x = samples(model);
  std::vector<at::Tensor> outputs;
  for (std::size_t k = 0; k < 4; ++k) {
    const Submodel half = select(*narrow.layout, 0.5, Choice::leading);
    outputs.push_back(run(narrow, sliced(narrow, alone(narrow, p, k), half), x, Mode::train,
                          nullptr, /*scaler=*/true));
  }
  const Submodel halves = select(*model.layout, 0.5, Choice::leading);
  EXPECT_TRUE(same_bits(run(model, sliced(model, p, halves), x, Mode::train, nullptr, true),
                        mean_of(outputs)));
}

TEST(Ensemble, EachExitGetsAGradientOfItsOwn) {
  const Model model = ensemble_of(kCases[0]);
  Parameters p = full_values(model);
  p.attach_gradients();
  std::vector<at::Tensor> exits;
  Context context;
  context.mode = Mode::train;
  context.exits = &exits;
  const at::Tensor last = forward(model, p, samples(model), context);
  ASSERT_EQ(exits.size(), 3u);
  exits[1].sum().backward();
  p.gradients();
  const std::size_t entries = model.layout->entries.size() / 4;
  for (std::size_t i = 0; i < model.layout->entries.size(); ++i) {
    const bool moved = p[static_cast<int>(i)].grad().abs().sum().item<double>() > 0;
    EXPECT_EQ(moved, i / entries == 1) << i;
  }
}

TEST(Ensemble, CalibratesTheNormsOfAllMembers) {
  const Model model = ensemble_of(kCases[1]);
  ASSERT_TRUE(model.has_statistics);
  std::vector<at::Tensor> statistics(model.layout->entries.size());
  run(model, full_values(model), samples(model), Mode::calibrate, &statistics);
  for (std::size_t i = 0; i < statistics.size(); ++i) {
    EXPECT_EQ(statistics[i].defined(), model.layout->entries[i].kind == Kind::statistic) << i;
  }
}

TEST(Ensemble, IsRefusedWhereItHasNoMeaning) {
  EXPECT_THROW(make({{"name", "lenet"}, {"members", "2"}}), InputError);
  EXPECT_THROW(make({{"name", "cnn"}, {"exits", "2"}, {"members", "2"}}), InputError);
  const Model one = make({{"name", "mlp"}, {"members", "1"}});
  EXPECT_FALSE(one.is_ensemble);
}

}  // namespace
}  // namespace espalier
