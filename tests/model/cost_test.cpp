#include "espalier/model/cost.h"

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/model/geometry.h"

namespace espalier {
namespace {

Model make(const std::string& name, const std::string& norm = "none") {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  config.set("model.name", name, "test");
  config.set("model.norm", norm, "test");
  return build_model(config, {{1, 28, 28}, 10});
}

Submodel leading(const Layout& layout, double share) {
  Submodel submodel = Submodel::full(layout);
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (!layout.axes[axis].cuttable) continue;
    std::vector<std::int64_t> units(
        static_cast<std::size_t>(std::ceil(share * static_cast<double>(layout.axes[axis].size))));
    for (std::size_t i = 0; i < units.size(); ++i) units[i] = static_cast<std::int64_t>(i);
    submodel.keep(static_cast<int>(axis), units);
  }
  return submodel;
}

TEST(Cost, CountsEveryTrainedValueAtAnyWidth) {
  for (const char* name : {"mlp", "lenet", "cnn", "vgg", "resnet"}) {
    for (const char* norm : {"none", "batch", "group", "layer"}) {
      const Model model = make(name, norm);
      for (const double share : {1.0, 0.5, 0.25}) {
        const Submodel submodel = leading(*model.layout, share);
        const Geometry dense(model.layout, submodel, Packing::dense);
        const TrainingCost cost = training_cost(model, submodel, 20, 0);
        EXPECT_EQ(cost.parameters, dense.count(Kind::trainable));
        EXPECT_EQ(cost.message_bytes, 4 * dense.count(Kind::trainable));
      }
    }
  }
}

TEST(Cost, FlopsOfLenetMatchTheSumByHand) {
  const Model model = make("lenet");
  const std::int64_t batch = 20;
  const std::int64_t products =
      25 * 1 * 6 * 784 + 25 * 6 * 16 * 100 + 400 * 120 + 120 * 84 + 84 * 10;
  const std::int64_t biases = 6 * 784 + 16 * 100 + 120 + 84 + 10;
  const std::int64_t relu_and_pool = 6 * 784 + 16 * 100 + 120 + 84;
  const TrainingCost cost = training_cost(model, Submodel::full(*model.layout), batch, 0);
  EXPECT_EQ(cost.forward_flops, batch * (2 * products + biases + relu_and_pool));
  EXPECT_EQ(cost.step_flops, 3 * cost.forward_flops);
}

TEST(Cost, BlocksAddUpAndKeepWhatTheirLayersNeed) {
  const Model model = make("lenet");
  const TrainingCost cost = training_cost(model, Submodel::full(*model.layout), 2, 0);
  ASSERT_EQ(cost.blocks.size(), 5u);
  std::int64_t parameters = 0, flops = 0, weights = 0;
  for (const BlockCost& block : cost.blocks) {
    parameters += block.parameters;
    flops += block.forward_flops;
    weights += block.weight_bytes;
  }
  EXPECT_EQ(parameters, 61706);
  EXPECT_EQ(flops, cost.forward_flops);
  EXPECT_EQ(weights, cost.model_bytes / 2);  // the other half is the gradients
  EXPECT_EQ(cost.blocks[0].parameters, 6 * 26);
  // Two samples. A convolution keeps its input, pooling a byte for each output; a linear layer its
  // input, ReLU its output, which is the next layer's input and counts once.
  EXPECT_EQ(cost.blocks[0].saved_bytes, 2 * (4 * 784 + 6 * 196));
  EXPECT_EQ(cost.blocks[1].saved_bytes, 2 * (4 * 6 * 196 + 16 * 25));
  EXPECT_EQ(cost.blocks[2].saved_bytes, 2 * (4 * 400 + 4 * 120));
  EXPECT_EQ(cost.blocks[3].saved_bytes, 2 * 4 * 84);
  EXPECT_EQ(cost.blocks[4].saved_bytes, 0);
  EXPECT_EQ(cost.blocks[4].forward_flops, 2 * (2 * 84 * 10 + 10));
}

TEST(Cost, GrowsWithBatchWidthAndState) {
  const Model model = make("cnn", "batch");
  const Submodel full = Submodel::full(*model.layout);
  const Submodel half = leading(*model.layout, 0.5);
  const TrainingCost base = training_cost(model, full, 20, 0);
  EXPECT_LT(training_cost(model, half, 20, 0).peak_bytes, base.peak_bytes);
  EXPECT_LT(training_cost(model, full, 8, 0).peak_bytes, base.peak_bytes);
  EXPECT_EQ(training_cost(model, full, 20, 0, 1000).peak_bytes, base.peak_bytes + 1000);
  // Momentum is one more flat buffer of the trained range.
  const Geometry aligned(model.layout, full, Packing::aligned);
  EXPECT_EQ(training_cost(model, full, 20, 1).peak_bytes,
            base.peak_bytes + 4 * aligned.kind_range(Kind::trainable).size());
  // Twice the batch is twice the work.
  EXPECT_EQ(training_cost(model, full, 40, 0).forward_flops, 2 * base.forward_flops);
}

}  // namespace
}  // namespace espalier
