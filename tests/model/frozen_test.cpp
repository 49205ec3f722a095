// Frozen entries in every family: the gradients of the others are those of the whole training.

#include "family_fixture.h"
#include "freezing.h"

namespace espalier {
namespace {

/// The gradient of each trained entry after one batch, by index.
std::vector<at::Tensor> gradients_of(const Model& model, const Parameters& values,
                                     const at::Tensor& x, const at::Tensor& y) {
  Parameters p = values_of(model, Submodel::full(*model.layout));
  for (std::size_t i = 0; i < model.layout->entries.size(); ++i) {
    p[static_cast<int>(i)].copy_(values[static_cast<int>(i)]);
  }
  p.attach_gradients();
  p.zero_gradients();
  Context context;
  context.mode = Mode::train;
  at::cross_entropy_loss(forward(model, p, x, context).flatten(0, -2), y).backward();
  const at::Tensor flat = p.gradients();
  std::vector<at::Tensor> all(model.layout->entries.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (model.layout->entries[i].kind != Kind::trainable) continue;
    const BufferLayout::Place& place = p.buffer_layout().place(static_cast<int>(i));
    all[i] = flat.narrow(0, place.offset, place.count).clone();
  }
  return all;
}

const std::vector<std::pair<const char*, Predicate>> kTrained{
    {"adapters", [](const Entry& e) { return e.adapter; }},
    {"up", [](const Entry& e) { return e.name.ends_with("lora_B.weight"); }},
    {"biases", [](const Entry& e) { return e.name.find("bias") != std::string::npos; }},
    {"matrices", [](const Entry& e) { return e.dimensions.size() > 1; }},
    {"vectors", [](const Entry& e) { return e.dimensions.size() == 1; }},
    {"the last block", [](const Entry& e) { return e.block > 1; }},
    {"the first block", [](const Entry& e) { return e.block == 0; }}};

struct Case {
  Settings settings;
  DataShape shape;
};

const Settings kBlocks{{"embed", "16"}, {"heads", "2"}, {"depth", "2"}, {"adapter_rank", "2"}};

Settings blocks(const std::string& name, const Settings& more = {}) {
  Settings all = kBlocks;
  all["name"] = name;
  for (const auto& [key, value] : more) all[key] = value;
  return all;
}

TEST(FrozenEntries, LeaveTheOtherGradientsAsTheyAre) {
  at::manual_seed(5);
  const std::vector<Case> cases{
      {{{"name", "mlp"}, {"hidden", "12, 8"}, {"adapter_rank", "2"}}, {{1, 6, 6}, 4}},
      {{{"name", "lenet"}, {"adapter_rank", "2"}}, {{1, 28, 28}, 4}},
      {{{"name", "cnn"}, {"norm", "batch"}, {"adapter_rank", "2"}}, {{3, 16, 16}, 4}},
      {{{"name", "cnn1d"},
        {"norm", "group"},
        {"adapter_rank", "2"},
        {"channels", "4, 6"},
        {"first_kernel", "8"},
        {"first_stride", "2"},
        {"pool", "2"}},
       {{3, 60}, 4}},
      {{{"name", "resnet"}, {"width", "4"}, {"norm", "layer"}}, {{3, 16, 16}, 4}},
      {{{"name", "lstm"}, {"hidden", "8"}, {"embed", "6"}, {"adapter_rank", "2"}},
       {{9}, 20, 20, true}},
      {blocks("vit"), {{3, 8, 8}, 4}},
      {blocks("encoder"), {{9}, 4, 20, false}},
      {blocks("gpt", {{"tied", "false"}}), {{9}, 20, 20, true}},
      {blocks("gpt", {{"positions", "rotary"},
                      {"fused_qkv", "false"},
                      {"kv_heads", "1"},
                      {"rms_norm", "true"},
                      {"activation", "swiglu"}}),
       {{9}, 20, 20, true}}};
  for (const auto& [settings, shape] : cases) {
    const Model whole = make(settings, shape);
    Parameters values = full_values(whole);
    for (const Adapter& adapter : whole.layout->adapters) values[adapter.up].normal_(0, 0.1);
    std::vector<std::int64_t> sizes = shape.sample;
    sizes.insert(sizes.begin(), 3);
    const at::Tensor x =
        shape.vocabulary > 0 ? at::randint(shape.vocabulary, sizes, at::kLong) : at::rand(sizes);
    const at::Tensor y = at::randint(shape.classes, {3 * shape.targets()}, at::kLong);
    const auto expected = gradients_of(whole, values, x, y);
    for (const auto& [name, is_trained] : kTrained) {
      const Model model = freeze_all_but(whole, is_trained);
      if (BufferLayout(model.layout, Submodel::full(*model.layout), Packing::dense)
              .count(Kind::trainable) == 0) {
        continue;
      }
      const auto found = gradients_of(model, values, x, y);
      for (std::size_t i = 0; i < found.size(); ++i) {
        if (!found[i].defined()) continue;
        EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-5, 1e-5))
            << settings.at("name") << ", " << name << ": " << model.layout->entries[i].name << " "
            << (found[i] - expected[i]).abs().max().item<float>();
      }
    }
  }
}

}  // namespace
}  // namespace espalier
