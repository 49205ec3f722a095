// The memory bound of cost.h for models with frozen entries and with adapters.

#include "bound.h"
#include "model/freezing.h"
#include "model/leading.h"

namespace espalier {
namespace {

const std::vector<std::pair<const char*, Predicate>> kTrained{
    {"all", [](const Entry&) { return true; }},
    {"adapters", [](const Entry& e) { return e.adapter; }},
    {"head",
     [](const Entry& e) { return e.name.starts_with("head") || e.name.starts_with("fc2"); }},
    {"biases", [](const Entry& e) { return e.name.ends_with("bias"); }},
    {"matrices", [](const Entry& e) { return e.dimensions.size() > 1; }},
    {"vectors", [](const Entry& e) { return e.dimensions.size() == 1; }}};

void expect_bounds(const Settings& options, const DataShape& shape) {
  for (const std::int64_t batch : {4, 32}) {
    const Setting setting{options, shape, batch};
    const Model whole = make(setting);
    for (const auto& [name, is_trained] : kTrained) {
      const Model model = freeze_all_but(whole, is_trained);
      if (BufferLayout(model.layout, Submodel::full(*model.layout), Packing::dense)
              .count(Kind::trainable) == 0) {
        continue;
      }
      for (const double fraction : {1.0, 0.5}) {
        expect_bound(setting, model, leading(*model.layout, fraction),
                     formatted("{} trained, width {}", name, fraction));
      }
    }
  }
}

const Settings kSmall{{"depth", "3"}, {"embed", "64"}, {"heads", "4"}, {"adapter_rank", "4"}};

Settings with(const std::string& name, const Settings& more = {}) {
  Settings all = kSmall;
  all["name"] = name;
  for (const auto& [key, value] : more) all[key] = value;
  return all;
}

using AdapterBound = BoundTest;

TEST_F(AdapterBound, HoldsForTransformers) {
  expect_bounds(with("vit"), {{3, 16, 16}, 10});
  expect_bounds(with("gpt"), {{24}, 50, 50, true});
  expect_bounds(with("gpt", {{"positions", "rotary"},
                             {"kv_heads", "2"},
                             {"fused_qkv", "false"},
                             {"rms_norm", "true"},
                             {"activation", "swiglu"},
                             {"tied", "false"}}),
                {{24}, 50, 50, true});
  expect_bounds(with("encoder"), {{20}, 4, 200, false});
}

TEST_F(AdapterBound, HoldsForOtherFamilies) {
  expect_bounds({{"name", "mlp"}, {"hidden", "64, 32"}, {"adapter_rank", "4"}}, {{1, 16, 16}, 10});
  expect_bounds({{"name", "cnn"}, {"adapter_rank", "4"}, {"norm", "batch"}}, {{3, 16, 16}, 10});
  expect_bounds({{"name", "lenet"}}, {{1, 28, 28}, 10});
  expect_bounds({{"name", "lstm"}, {"hidden", "32"}, {"embed", "8"}, {"adapter_rank", "4"}},
                {{20}, 50, 50, true});
}

}  // namespace
}  // namespace espalier
