// The memory bound of cost.h for the transformer families, at widths cut by fractions and block by
// block, and at two depths.

#include "bound.h"
#include "model/leading.h"

namespace espalier {
namespace {

Submodel by_block(const Model& model, double fraction) {
  Submodel submodel = Submodel::full(*model.layout);
  for (const TransformerAxes& axes : model.transformer) {
    for (const int axis : {axes.heads, axes.attention_rows, axes.hidden, axes.mlp_rows})
      submodel.keep(axis, leading_units(fraction, submodel.full_width(axis)));
  }
  return submodel;
}

void expect_bounds(const Setting& setting) {
  const Model model = make(setting);
  for (const bool shallow : {false, true}) {
    for (const double fraction : {1.0, 0.5, 0.25}) {
      for (const bool blocks : {false, true}) {
        if (blocks && fraction == 1) continue;
        Submodel submodel = blocks ? by_block(model, fraction) : leading(*model.layout, fraction);
        if (shallow) submodel.keep_block(model.transformer.back().block, false);
        expect_bound(setting, model, submodel,
                     formatted("{} {}{}", blocks ? "blocks" : "fractions", fraction,
                               shallow ? " one block less" : ""));
      }
    }
  }
}

Settings with(const std::string& name, const Settings& more = {}) {
  Settings all{{"name", name}, {"depth", "3"}, {"embed", "64"}, {"heads", "4"}};
  for (const auto& [key, value] : more) all[key] = value;
  return all;
}

const DataShape kImages{{3, 16, 16}, 10};
const DataShape kText{{24}, 50, 50, true};
const DataShape kNews{{20}, 4, 200, false};
const DataShape kHidden{{20}, 199, 200, false, 3};

using TransformerBound = BoundTest;

TEST_F(TransformerBound, HoldsForVit) {
  for (const Settings& more :
       {Settings{}, Settings{{"pooling", "mean"}, {"qkv_bias", "false"}},
        Settings{{"fused_qkv", "false"}}, Settings{{"rms_norm", "true"}, {"activation", "swiglu"}},
        Settings{{"projection", "32"}}})
    for (const std::int64_t batch : {4, 32}) expect_bounds({with("vit", more), kImages, batch});
}

TEST_F(TransformerBound, HoldsForExits) {
  for (const DataShape& shape : {kImages, kNews}) {
    const Setting setting{with(shape.vocabulary > 0 ? "encoder" : "vit", {{"exits", "3"}}), shape,
                          8};
    const Model model = make(setting);
    for (const std::int64_t depth : {1, 2, 3})
      expect_bound(setting, model, cut_depth(model, depth), formatted("depth {}", depth));
    expect_bounds(setting);
  }
}

TEST_F(TransformerBound, HoldsForGpt) {
  const Settings llama{{"positions", "rotary"}, {"kv_heads", "2"},        {"fused_qkv", "false"},
                       {"qkv_bias", "false"},   {"linear_bias", "false"}, {"rms_norm", "true"},
                       {"activation", "swiglu"}};
  for (const Settings& more :
       {Settings{}, Settings{{"tied", "false"}}, Settings{{"positions", "rotary"}}, llama})
    for (const std::int64_t batch : {4, 32}) expect_bounds({with("gpt", more), kText, batch});
}

TEST_F(TransformerBound, HoldsForEncoder) {
  for (const Settings& more : {Settings{}, Settings{{"pooling", "mean"}, {"positions", "rotary"}}})
    for (const std::int64_t batch : {4, 32}) expect_bounds({with("encoder", more), kNews, batch});
}

TEST_F(TransformerBound, HoldsForHiddenTokens) {
  for (const Settings& more : {Settings{}, Settings{{"exits", "3"}}})
    for (const std::int64_t batch : {4, 32}) expect_bounds({with("encoder", more), kHidden, batch});
}

TEST_F(TransformerBound, HoldsForOneSampleAndALongText) {
  expect_bounds({with("vit"), kImages, 1});
  expect_bounds({with("gpt", {{"depth", "2"}}), {{256}, 20, 20, true}, 2});
}

TEST_F(TransformerBound, HoldsWhereValuesAreNarrowerThanQueries) {
  for (const bool wider : {false, true}) {
    const Setting setting{with("vit", {{"fused_qkv", "false"}}), kImages, 16};
    const Model model = make(setting);
    Submodel submodel = Submodel::full(*model.layout);
    for (const TransformerAxes& axes : model.transformer)
      submodel.keep(wider ? axes.columns : axes.value_columns, leading_units(0.5, 16));
    expect_bound(setting, model, submodel, wider ? "half the queries" : "half the values");
  }
}

TEST_F(TransformerBound, HoldsWithHeteroFLsScaler) {
  expect_bounds({with("vit"), kImages, 16, true});
  expect_bounds({with("gpt"), kText, 16, true});
  expect_bounds({with("encoder", {{"positions", "rotary"}}), kNews, 16, true});
}

TEST_F(TransformerBound, HoldsWithTwoThreads) {
  at::set_num_threads(2);
  expect_bounds({with("vit"), kImages, 8});
  expect_bounds({with("gpt"), kText, 8});
}

}  // namespace
}  // namespace espalier
