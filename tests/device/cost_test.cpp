// The promise of the cost model: the peak that a client's memory account measures over a whole task
// is at most the predicted peak, and the prediction is at most a quarter too high.

#include "espalier/model/cost.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "espalier/device/memory.h"
#include "espalier/model/parameters.h"
#include "model/leading.h"
#include "momentum_step.h"

namespace espalier {
namespace {

struct Setting {
  std::string name;
  std::string norm;
  DataShape shape;
  double fraction;
  std::int64_t batch;
  bool momentum;
  std::map<std::string, std::string> sizes = {};  ///< other options of the model
  std::vector<std::string> dropped = {};          ///< blocks
};

Model make(const Setting& setting) {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  config.set("model.name", setting.name, "test");
  config.set("model.norm", setting.norm, "test");
  for (const auto& [key, value] : setting.sizes) config.set("model." + key, value, "test");
  return build_model(config, setting.shape);
}

/// Peak bytes of three training steps as in a client task.
std::int64_t measured_peak(const Model& model, const Submodel& submodel, const Setting& setting,
                           std::int64_t message_bytes) {
  auto account = MemoryAccount::create(0);
  MemoryScope scope(account);
  account->charge(message_bytes);
  Parameters p(std::make_shared<const BufferLayout>(model.layout, submodel, Packing::aligned));
  p.attach_gradients();
  at::Tensor velocity;
  for (int step = 0; step < 3; ++step) {
    std::vector<std::int64_t> shape = setting.shape.sample;
    shape.insert(shape.begin(), setting.batch);
    const at::Tensor x = at::zeros(shape);
    const at::Tensor y = at::zeros({setting.batch}, at::kLong);
    Context context;
    context.mode = Mode::train;
    p.zero_gradients();
    at::Tensor loss = at::cross_entropy_loss(forward(model, p, x, context), y);
    loss.backward();
    if (setting.momentum) {
      momentum_step(p, velocity);
    } else {
      c10::NoGradGuard no_grad;
      p.trainable().add_(p.gradients(), -0.01);
    }
  }
  return account->peak_bytes();
}

/// Checks one setting; prints the figures if ESPALIER_SHOW is set.
void expect_bound(const Setting& setting) {
  const Model model = make(setting);
  Submodel submodel = leading(*model.layout, setting.fraction);
  for (const std::string& name : setting.dropped) {
    const auto& blocks = model.layout->blocks;
    const auto block = std::find(blocks.begin(), blocks.end(), name);
    ASSERT_NE(block, blocks.end()) << name;
    submodel.keep_block(static_cast<int>(block - blocks.begin()), false);
  }
  const TrainingCost cost = training_cost(model, submodel, setting.batch, setting.momentum ? 1 : 0);
  const std::int64_t measured = measured_peak(model, submodel, setting, cost.message_bytes);
  const double ratio = static_cast<double>(cost.peak_bytes) / static_cast<double>(measured);
  std::string what = formatted("{} {} {}x{} fraction {} batch {} threads {}", setting.name,
                               setting.norm, setting.shape.sample[0], setting.shape.sample[1],
                               setting.fraction, setting.batch, at::get_num_threads());
  for (const auto& [key, value] : setting.sizes) what += formatted(" {} {}", key, value);
  EXPECT_LE(measured, cost.peak_bytes) << what;
  EXPECT_LE(ratio, 1.25) << what;
  if (std::getenv("ESPALIER_SHOW")) {
    fmt::print("{:90} measured {:9} predicted {:9} ratio {:.4f}\n", what, measured, cost.peak_bytes,
               ratio);
  }
}

class CostBound : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { install_counting_allocator(); }
  void SetUp() override { at::set_num_threads(1); }
  void TearDown() override { at::set_num_threads(1); }
};

const DataShape kMnist{{1, 28, 28}, 10};
const DataShape kCifar{{3, 32, 32}, 10};

TEST_F(CostBound, HoldsWithAProjectionHead) {
  for (const char* name : {"mlp", "cnn", "resnet"}) {
    for (const double fraction : {1.0, 0.5, 0.25}) {
      expect_bound({name, "none", kCifar, fraction, 20, true, {{"projection", "256"}}});
    }
  }
}

TEST_F(CostBound, HoldsForEveryFamilyNormWidthAndBatch) {
  for (const char* name : {"mlp", "lenet", "cnn"}) {
    for (const char* norm : {"none", "batch", "group", "layer"}) {
      for (const DataShape& shape : {kMnist, kCifar}) {
        for (const double fraction : {1.0, 0.5, 0.25}) {
          for (const std::int64_t batch : {8, 20, 64}) {
            expect_bound({name, norm, shape, fraction, batch, batch == 20});
          }
        }
      }
    }
  }
}

using Sizes = std::map<std::string, std::string>;

TEST_F(CostBound, HoldsForVggAndResnetAtThreeWidthsAndTwoDepths) {
  for (const auto& [name, depth] : std::vector<std::pair<std::string, std::string>>{
           {"vgg", "11"}, {"vgg", "16"}, {"resnet", "18"}, {"resnet", "50"}}) {
    for (const char* norm : {"none", "batch", "group", "layer"}) {
      for (const double fraction : {1.0, 0.5, 0.25}) {
        const Sizes slim{{"depth", depth}, {"width", "16"}};
        expect_bound({name, norm, kCifar, fraction, 20, true, slim});
      }
    }
  }
}

TEST_F(CostBound, HoldsForOtherFormsOfVggAndResnet) {
  const Sizes imagenet{{"stem", "imagenet"}, {"width", "16"}};
  for (const double fraction : {1.0, 0.5, 0.25}) {
    expect_bound({"resnet", "batch", {{3, 64, 64}, 100}, fraction, 8, true, imagenet});
    expect_bound({"resnet",
                  "batch",
                  kCifar,
                  fraction,
                  20,
                  true,
                  {{"depth", "34"}, {"width", "16"}},
                  {"layer1.1", "layer1.2", "layer3.3", "layer3.5", "layer4.1"}});
    for (const char* name : {"vgg", "resnet"}) {
      for (const std::int64_t batch : {1, 5, 12}) {
        expect_bound({name, "batch", kCifar, fraction, batch, false, {{"width", "40"}}});
      }
    }
    expect_bound({"vgg",
                  "batch",
                  {{3, 64, 64}, 100},
                  fraction,
                  8,
                  true,
                  {{"width", "16"}, {"classifier", "128,128"}}});
  }
}

TEST_F(CostBound, HoldsForSignals) {
  const Sizes speech{{"channels", "32,32,64,64"}, {"kernel", "3"}, {"first_stride", "4"}};
  const Sizes motion{{"channels", "24,48"},
                     {"kernel", "5"},
                     {"first_kernel", "9"},
                     {"first_stride", "1"},
                     {"pool", "2"}};
  for (const char* norm : {"none", "batch", "group", "layer"}) {
    for (const double fraction : {1.0, 0.5, 0.25}) {
      for (const std::int64_t batch : {1, 8, 64}) {
        expect_bound({"cnn1d", norm, {{1, 4096}, 10}, fraction, batch, batch == 8, speech});
        expect_bound({"cnn1d", norm, {{6, 100}, 7}, fraction, batch, batch == 8, motion});
      }
    }
  }
  // Kernels of any length, with a stride or without.
  for (const char* kernel : {"1", "9", "25"}) {
    for (const char* stride : {"1", "16"}) {
      for (const std::int64_t batch : {1, 4, 5}) {
        expect_bound({"cnn1d",
                      "none",
                      {{2, 4000}, 10},
                      1.0,
                      batch,
                      false,
                      {{"channels", "16,32,20"},
                       {"kernel", kernel},
                       {"first_stride", stride},
                       {"pool", "2"}}});
      }
    }
  }
}

TEST_F(CostBound, HoldsForABatchOfOneAndTheNarrowestModel) {
  for (const char* name : {"mlp", "lenet", "cnn"}) {
    for (const double fraction : {1.0, 0.01}) {
      for (const std::int64_t batch : {1, 3})
        expect_bound({name, "none", kMnist, fraction, batch, false});
    }
  }
}

TEST_F(CostBound, HoldsWithTwoThreads) {
  at::set_num_threads(2);
  for (const char* name : {"lenet", "cnn"}) {
    for (const DataShape& shape : {kMnist, kCifar}) {
      for (const double fraction : {1.0, 0.25})
        expect_bound({name, "batch", shape, fraction, 20, true});
    }
  }
  for (const char* name : {"vgg", "resnet"}) {
    for (const double fraction : {1.0, 0.25}) {
      expect_bound({name, "batch", kCifar, fraction, 4, true, {{"width", "16"}}});
    }
  }
  expect_bound({"cnn1d", "batch", {{1, 4096}, 10}, 1.0, 20, true});
}

}  // namespace
}  // namespace espalier
