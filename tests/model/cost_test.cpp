#include "espalier/model/cost.h"

#include <gtest/gtest.h>

#include <array>

#include "espalier/model/buffer_layout.h"
#include "leading.h"

namespace espalier {
namespace {

Model make(const std::string& name, const std::string& norm = "none") {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  config.set("model.name", name, "test");
  config.set("model.norm", norm, "test");
  return build_model(config,
                     name == "cnn1d" ? DataShape{{1, 4096}, 10} : DataShape{{1, 28, 28}, 10});
}

TEST(Cost, CountsEveryTrainedValueAtAnyWidth) {
  for (const char* name : {"mlp", "lenet", "cnn", "cnn1d", "vgg", "resnet"}) {
    for (const char* norm : {"none", "batch", "group", "layer"}) {
      const Model model = make(name, norm);
      for (const double fraction : {1.0, 0.5, 0.25}) {
        const Submodel submodel = leading(*model.layout, fraction);
        const BufferLayout dense(model.layout, submodel, Packing::dense);
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

TEST(Cost, FlopsOfCnn1dMatchTheSumByHand) {
  // Two convolutions of 32 and 64 channels: 4096 values, 252 by kernels of 80 with stride 16,
  // pooled 63, 59 by kernels of 5, pooled 14.
  const Model model = make("cnn1d");
  const std::int64_t products = 80 * 32 * 252 + 5 * 32 * 64 * 59 + 64 * 10;
  const std::int64_t biases = 32 * 252 + 64 * 59 + 10;
  const std::int64_t relu = 32 * 252 + 64 * 59;
  const std::int64_t pool = 4 * (32 * 63 + 64 * 14);  // each output reads four
  const std::int64_t mean = 64 * 14;
  const TrainingCost cost = training_cost(model, Submodel::full(*model.layout), 3, 0);
  EXPECT_EQ(cost.forward_flops, 3 * (2 * products + biases + relu + pool + mean));
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
  // Two samples. A convolution saves its input, pooling a byte for each output; a linear layer its
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
  const BufferLayout aligned(model.layout, full, Packing::aligned);
  EXPECT_EQ(training_cost(model, full, 20, 1).peak_bytes,
            base.peak_bytes + 4 * aligned.kind_range(Kind::trainable).size());
  // Twice the batch is twice the work.
  EXPECT_EQ(training_cost(model, full, 40, 0).forward_flops, 2 * base.forward_flops);
}

TEST(Cost, KindsOfWorkAddUpToAllFlopsInEveryFamily) {
  OptionTable table;
  declare_model_options(table);
  for (const auto& family : model_families().items()) {
    Config config(table);
    config.set("model.name", family.name, "test");
    set_model_defaults(config);
    const Model model = build_model(config, family.value.customary);
    for (const double fraction : {1.0, 0.5, 0.25}) {
      const TrainingCost cost = training_cost(model, leading(*model.layout, fraction), 3, 1);
      std::array<std::int64_t, kWorks> kinds{};
      std::int64_t sum = 0;
      for (const BlockCost& block : cost.blocks) {
        std::int64_t of_block = 0;
        for (std::size_t k = 0; k < kinds.size(); ++k) {
          kinds[k] += block.step_flops[k];
          of_block += block.step_flops[k];
        }
        EXPECT_EQ(of_block, 3 * block.forward_flops) << family.name;
        EXPECT_GT(block.moved_bytes, 0) << family.name;
        sum += of_block;
      }
      EXPECT_EQ(sum, cost.step_flops) << family.name;
      const bool convolves = kinds[static_cast<std::size_t>(Work::convolution)] > 0;
      const bool attends = kinds[static_cast<std::size_t>(Work::attention)] > 0;
      const bool has_maps = family.name == "lenet" || family.name == "cnn" ||
                            family.name == "cnn1d" || family.name == "vgg" ||
                            family.name == "resnet";
      EXPECT_EQ(convolves, has_maps) << family.name;
      EXPECT_EQ(attends, !model.transformer.empty()) << family.name;
      EXPECT_GT(kinds[static_cast<std::size_t>(Work::product)], 0) << family.name;
      EXPECT_GT(kinds[static_cast<std::size_t>(Work::other)], 0) << family.name;
    }
  }
}

TEST(Cost, KindsOfLenetMatchTheSumByHand) {
  const Model model = make("lenet");
  const TrainingCost cost = training_cost(model, Submodel::full(*model.layout), 2, 0);
  const BlockCost& features = cost.blocks[1];
  const std::array<std::int64_t, kWorks> expected{3 * 2 * (2 * 25 * 6 * 16 * 100 + 1600), 0, 0,
                                                  3 * 2 * 1600};
  EXPECT_EQ(features.step_flops, expected);
  const std::array<std::int64_t, kWorks> head{0, 3 * 2 * (2 * 84 * 10 + 10), 0, 0};
  EXPECT_EQ(cost.blocks[4].step_flops, head);
}

TEST(Cost, MovedBytesOfAnMlpMatchTheSumByHand) {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  config.set("model.name", "mlp", "test");
  config.set("model.hidden", "32", "test");
  const Model model = build_model(config, {{48}, 16});
  const Submodel full = Submodel::full(*model.layout);
  const std::int64_t batch = 5;
  const std::int64_t x = 4 * batch * 48, h = 4 * batch * 32, y = 4 * batch * 16;
  const std::int64_t w1 = 4 * 48 * 32, b1 = 4 * 32, w2 = 4 * 32 * 16, b2 = 4 * 16;
  // Forward x, w, h. Backward: of the weights h's gradient, x, and w's gradient twice; none of x.
  const std::int64_t first = (x + w1 + h) + (h + x + 2 * w1);
  // Forward h in and out; backward both gradients and the output.
  const std::int64_t relu = 2 * h + 3 * h;
  const std::int64_t second = (h + w2 + y) + (y + w2 + h) + (y + h + 2 * w2);
  // Log-softmax saves its output; the likelihood, one number, its input.
  const std::int64_t loss = 2 * y + 3 * y + (y + 4) + (4 + y + y);
  // Gradients zeroed; then read, weights read and written.
  const TrainingCost plain = training_cost(model, full, batch, 0);
  EXPECT_EQ(plain.blocks[0].moved_bytes, first + relu + 4 * (w1 + b1));
  EXPECT_EQ(plain.blocks[1].moved_bytes, second + loss + 4 * (w2 + b2));
  const TrainingCost momentum = training_cost(model, full, batch, 1);
  EXPECT_EQ(momentum.blocks[0].moved_bytes - plain.blocks[0].moved_bytes, 2 * (w1 + b1));
}

}  // namespace
}  // namespace espalier
