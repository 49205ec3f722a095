// Predicted compute times: closed forms of the roofline, and the limits in which it equals FLOPs /
// rate.

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/device/device.h"

namespace espalier {
namespace {

/// Blocks of {convolution, product, attention, other} FLOPs and moved bytes.
TrainingCost step_of(const std::vector<BlockCost>& blocks) {
  TrainingCost cost;
  cost.blocks = blocks;
  for (const BlockCost& block : blocks) {
    for (const std::int64_t flops : block.step_flops) cost.step_flops += flops;
  }
  return cost;
}

BlockCost block_of(std::array<std::int64_t, kWorks> flops, std::int64_t moved_bytes) {
  BlockCost block;
  block.step_flops = flops;
  block.moved_bytes = moved_bytes;
  return block;
}

Nanoseconds time_of(const DeviceClass& device, const TrainingCost& cost, std::int64_t count = 1,
                    double slowdown = 1) {
  const Steps steps{cost, count};
  return compute_time(device, {&steps, 1}, slowdown);
}

// 1 GFLOP/s is a FLOP per nanosecond, 1 GB/s a byte per nanosecond.
const TrainingCost kStep =
    step_of({block_of({1000, 400, 60, 8}, 900), block_of({0, 600, 0, 20}, 5000)});

TEST(Roofline, EachKindOfWorkHasItsRate) {
  DeviceClass device{.name = "d", .gflops = 2};
  EXPECT_EQ(time_of(device, kStep), 2088 / 2);
  device.gflops_conv = 10;
  EXPECT_EQ(time_of(device, kStep), 100 + (400 + 60 + 8) / 2 + (600 + 20) / 2);
  device.gflops_matmul = 4;
  EXPECT_EQ(time_of(device, kStep), 100 + 100 + (60 + 8) / 2 + 150 + 10);
  device.gflops_attention = 6;
  EXPECT_EQ(time_of(device, kStep), 100 + 100 + 10 + 4 + 150 + 10);
}

TEST(Roofline, ABlockTakesTheLongerOfArithmeticAndMemory) {
  DeviceClass device{.name = "d", .gflops = 2};
  // 734 against 900 / m, and 310 against 5000 / m.
  device.memory_gbps = 100;
  EXPECT_EQ(time_of(device, kStep), 734 + 310);
  device.memory_gbps = 10;
  EXPECT_EQ(time_of(device, kStep), 734 + 500);
  device.memory_gbps = 1;
  EXPECT_EQ(time_of(device, kStep), 900 + 5000);
}

TEST(Roofline, TheFixedCostIsOfEachBlockAndStep) {
  DeviceClass device{.name = "d", .gflops = 2, .overhead_us = 3};
  EXPECT_EQ(time_of(device, kStep), 1044 + 2 * 3000);
  EXPECT_EQ(time_of(device, kStep, 7), 7 * (1044 + 2 * 3000));
  EXPECT_EQ(time_of(device, kStep, 7, 2.5), 17.5 * (1044 + 2 * 3000));
  device.memory_gbps = 1;
  EXPECT_EQ(time_of(device, kStep), 5900 + 2 * 3000);
}

TEST(Roofline, IsRoundedOncePerTask) {
  const TrainingCost step = step_of({block_of({0, 0, 0, 2}, 0)});  // 2 ns
  const DeviceClass device{.name = "d", .gflops = 1, .gflops_attention = 1, .memory_gbps = 5};
  const TrainingCost moved = step_of({block_of({0, 0, 0, 0}, 2)});  // 0.4 ns
  EXPECT_EQ(time_of(device, moved), 0);
  EXPECT_EQ(time_of(device, moved, 10), 4);
  const std::vector<Steps> both{{moved, 4}, {step, 1}};  // 3.6 ns
  EXPECT_EQ(compute_time(device, both), 4);
}

TEST(Roofline, WithoutItsFieldsTimesAreThoseOfTheFlopsAlone) {
  OptionTable table;
  declare_model_options(table);
  for (const char* name : {"mlp", "lenet", "cnn", "vgg", "resnet"}) {
    Config config(table);
    config.set("model.name", name, "test");
    const Model model = build_model(config, {{3, 32, 32}, 10});
    const Submodel full = Submodel::full(*model.layout);
    const TrainingCost whole = training_cost(model, full, 20, 1);
    const TrainingCost rest = training_cost(model, full, 7, 1);
    const std::vector<Steps> steps{{whole, 13}, {rest, 1}};
    const std::int64_t flops = 13 * whole.step_flops + rest.step_flops;
    for (const double gflops : {50.0, 3.0, 0.7, 1597.0}) {
      const DeviceClass device{.name = "d", .gflops = gflops};
      for (const double slowdown : {1.0, 3.0, 1.1}) {
        const auto expected =
            std::llround(static_cast<double>(flops) / gflops * slowdown);  // as before the roofline
        EXPECT_EQ(compute_time(device, steps, slowdown), expected);
        EXPECT_EQ(compute_time(device, flops, slowdown), expected);
        // Times from equal rates differ by the rounding of sums of at most 20 blocks: a relative
        // 100 x 2^-53, of less than 10^14 ns.
        const DeviceClass same{.name = "d", .gflops = gflops, .gflops_conv = gflops};
        EXPECT_NEAR(compute_time(same, steps, slowdown), expected, 2);
      }
    }
  }
}

TEST(Roofline, AbsurdTimesAreRefused) {
  EXPECT_THROW(time_of({.name = "d", .gflops = 1, .memory_gbps = 1e-12}, kStep, 1'000'000'000),
               InputError);
}

TEST(Roofline, FieldsAreRead) {
  OptionTable table;
  declare_device_options(table);
  table.add({"run.seed", OptionType::integer, "1", "seed"});
  Config config(table);
  config.read_text(
      "[clients]\ncount = 1\nfleet = d\n[device.d]\ngflops = 1\ngflops_conv = 2\n"
      "gflops_matmul = 3\ngflops_attention = 4\nmemory_gbps = 5\noverhead_us = 6\n",
      "test");
  const DeviceClass device = Fleet(config).device(0);
  EXPECT_EQ(device.gflops_conv, 2);
  EXPECT_EQ(device.gflops_matmul, 3);
  EXPECT_EQ(device.gflops_attention, 4);
  EXPECT_EQ(device.memory_gbps, 5);
  EXPECT_EQ(device.overhead_us, 6);
  const DeviceClass plain = Fleet(Config(table)).device(0);
  EXPECT_EQ(time_of(plain, kStep, 1000), 1000 * 2088 / 50);
}

}  // namespace
}  // namespace espalier
