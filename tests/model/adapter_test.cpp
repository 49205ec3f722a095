// Adapters: names and shapes of their entries, values and gradients against ATen, cut ranks, and
// the sum with the weights.

#include "espalier/model/adapter.h"

#include "espalier/model/operations.h"
#include "family_fixture.h"

namespace espalier {
namespace {

Settings mlp_with(const Settings& more) {
  Settings all{{"name", "mlp"}, {"hidden", "12"}, {"adapter_rank", "4"}, {"adapter_alpha", "2"}};
  for (const auto& [key, value] : more) all[key] = value;
  return all;
}

const DataShape kNumbers{{10}, 3};

/// A full model, in which every B has values too.
Parameters random_values(const Model& model) {
  Parameters p = full_values(model);
  for (const Adapter& adapter : model.layout->adapters) p[adapter.up].normal_();
  return p;
}

TEST(Adapters, AreEntriesOfTheNamedLayers) {
  const Model all = make(mlp_with({}), kNumbers);
  ASSERT_EQ(all.layout->adapters.size(), 2u);
  const Adapter& first = all.layout->adapters[0];
  EXPECT_EQ(all.layout->entries[static_cast<std::size_t>(first.down)].name, "fc1.lora_A.weight");
  EXPECT_EQ(all.layout->entries[static_cast<std::size_t>(first.up)].name, "fc1.lora_B.weight");
  EXPECT_EQ(first.scale, 0.5);
  const Parameters p = full_values(all);
  EXPECT_EQ(p[first.down].sizes(), (at::IntArrayRef{4, 10}));
  EXPECT_EQ(p[first.up].sizes(), (at::IntArrayRef{12, 4}));
  EXPECT_EQ(p[first.up].count_nonzero().item<std::int64_t>(), 0);
  EXPECT_GT(p[first.down].abs().max().item<float>(), 0);
  EXPECT_LE(p[first.down].abs().max().item<float>(), 1 / std::sqrt(10.0F));
  EXPECT_EQ(make(mlp_with({{"adapter_modules", "fc2"}}), kNumbers).layout->adapters.size(), 1u);
  EXPECT_THROW(make(mlp_with({{"adapter_modules", "fc2, fc3"}}), kNumbers), InputError);
  EXPECT_THROW(make({{"name", "lenet"}, {"adapter_rank", "2"}, {"adapter_modules", "conv1"}}),
               InputError);
}

TEST(Adapters, AtFirstChangeNothing) {
  for (const Settings& settings :
       {mlp_with({}), Settings{{"name", "vit"}, {"embed", "16"}, {"heads", "2"}, {"depth", "2"}}}) {
    Settings with = settings, without = settings;
    with["adapter_rank"] = "3";
    without["adapter_rank"] = "0";
    const DataShape shape{{3, 8, 8}, 10};
    const Model adapted = make(with, shape), plain = make(without, shape);
    const at::Tensor x = at::rand({2, 3, 8, 8});
    Context context;
    EXPECT_TRUE(at::equal(forward(adapted, full_values(adapted), x, context),
                          forward(plain, full_values(plain), x, context)));
  }
}

TEST(Adapters, ValuesAndGradientsAreThoseOfATen) {
  at::manual_seed(3);
  for (const int frozen : {0, 1, 2, 3}) {  // bits: A is frozen, B is frozen
    for (const bool input : {false, true}) {
      for (const bool before : {false, true}) {  // whether y has a graph
        const auto leaf = [](std::initializer_list<std::int64_t> sizes, bool trains) {
          return at::randn(sizes).set_requires_grad(trains);
        };
        const at::Tensor x = leaf({2, 5, 6}, input), w = leaf({2, 5, 7}, before);
        const at::Tensor down = leaf({3, 6}, (frozen & 1) == 0);
        const at::Tensor up = leaf({7, 3}, (frozen & 2) == 0);
        const at::Tensor g = at::randn({2, 5, 7});
        const auto graded = [&](const at::Tensor& y) {
          if (!y.requires_grad()) return std::vector<at::Tensor>{y};
          y.backward(g);
          std::vector<at::Tensor> all{y.detach()};
          for (const at::Tensor& t : {x, w, down, up}) {
            if (!t.requires_grad()) continue;
            all.push_back(t.grad().clone());
            t.mutable_grad() = at::Tensor();
          }
          return all;
        };
        const auto expected = graded(w * 2 + at::linear(at::linear(x, down), up) * 1.5);
        const auto found = graded(add_low_rank(w * 2, x, {down, {}}, {up, {}}, 1.5));
        ASSERT_EQ(found.size(), expected.size());
        for (std::size_t i = 0; i < found.size(); ++i) {
          EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-5, 1e-5)) << i;
        }
      }
    }
  }
}

TEST(Adapters, ACutRankIsTheLeadingPartOfTheProduct) {
  const Model model = make(mlp_with({}), kNumbers);
  const Parameters whole = random_values(model);
  Submodel submodel = Submodel::full(*model.layout);
  for (const Adapter& adapter : model.layout->adapters) submodel.keep(adapter.rank, {0, 1});
  Parameters cut = values_of(model, submodel);
  Plan(whole.buffer_layout(), cut.buffer_layout()).copy(whole.data(), cut.data());
  Parameters zeros = whole.copy();
  for (const Adapter& adapter : model.layout->adapters) zeros[adapter.up].narrow(1, 2, 2).zero_();
  const at::Tensor x = at::rand({4, 10});
  Context context;
  EXPECT_TRUE(
      at::allclose(forward(model, cut, x, context), forward(model, zeros, x, context), 1e-5, 1e-6));
}

TEST(Adapters, AreAddedToTheWeights) {
  const Model model = make(mlp_with({{"hidden", "12, 8"}}), kNumbers);
  Parameters p = random_values(model);
  const at::Tensor x = at::rand({4, 10});
  Context context;
  const at::Tensor before = forward(model, p, x, context);
  merge_adapters(p);
  EXPECT_TRUE(at::allclose(forward(model, p, x, context), before, 1e-5, 1e-5));
  EXPECT_EQ(p[model.layout->adapters[1].up].count_nonzero().item<std::int64_t>(), 0);
}

TEST(Adapters, AreCutWithTheirLayer) {
  const Model model = make(mlp_with({{"hidden", "12, 8"}}), kNumbers);
  Submodel half = Submodel::full(*model.layout);
  half.keep(1, {0, 2, 4, 6, 8, 10});
  const Parameters p = values_of(model, half);
  EXPECT_EQ(p[model.layout->adapters[0].up].sizes(), (at::IntArrayRef{6, 4}));
  EXPECT_EQ(p[model.layout->adapters[1].down].sizes(), (at::IntArrayRef{4, 6}));
  Context context;
  EXPECT_EQ(forward(model, p, at::rand({2, 10}), context).size(1), 3);
}

TEST(Adapters, OfMembersAreTheirOwn) {
  const Model model = make(mlp_with({{"members", "2"}}), kNumbers);
  ASSERT_EQ(model.layout->adapters.size(), 4u);
  const Parameters p = full_values(model);
  for (const Adapter& adapter : model.layout->adapters) {
    const std::string& name = model.layout->entries[static_cast<std::size_t>(adapter.weight)].name;
    const std::string& up = model.layout->entries[static_cast<std::size_t>(adapter.up)].name;
    EXPECT_EQ(name.substr(0, name.rfind('.')) + ".lora_B.weight", up);
    EXPECT_EQ(p[adapter.up].size(0), p[adapter.weight].size(0));
    EXPECT_EQ(model.layout->axes[static_cast<std::size_t>(adapter.rank)].size, 4);
  }
}

}  // namespace
}  // namespace espalier
