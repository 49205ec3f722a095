#pragma once
// The memory bound of cost.h against the peak that a client's memory account measures, for any
// family on images or texts.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "espalier/device/memory.h"
#include "espalier/model/cost.h"
#include "espalier/model/parameters.h"
#include "momentum_step.h"

namespace espalier {

using Settings = std::map<std::string, std::string>;

struct Setting {
  Settings options;
  DataShape shape;
  std::int64_t batch = 4;
  bool scaler = false;
};

inline Model make(const Setting& setting) {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  for (const auto& [key, value] : setting.options) config.set("model." + key, value, "test");
  return build_model(config, setting.shape);
}

/// Peak bytes of three training steps with momentum, as in a client task.
inline std::int64_t measured_peak(const Model& model, const Submodel& submodel, std::int64_t batch,
                                  bool scaler, std::int64_t message_bytes) {
  auto account = MemoryAccount::create(0);
  MemoryScope scope(account);
  account->charge(message_bytes);
  Parameters p(std::make_shared<const BufferLayout>(model.layout, submodel, Packing::aligned));
  p.attach_gradients();
  at::Tensor velocity;
  for (int step = 0; step < 3; ++step) {
    std::vector<std::int64_t> shape = model.shape.sample;
    shape.insert(shape.begin(), batch);
    const at::Tensor x = at::zeros(shape, model.shape.vocabulary > 0 ? at::kLong : at::kFloat);
    if (model.shape.masked > 0) {
      x.narrow(1, 0, model.shape.masked).fill_(model.shape.vocabulary - 1);
    }
    const at::Tensor y = at::zeros({batch * model.shape.targets()}, at::kLong);
    Context context;
    context.mode = Mode::train;
    context.scaler = scaler;
    p.zero_gradients();
    std::vector<at::Tensor> exits;
    context.exits = &exits;
    at::Tensor loss = at::cross_entropy_loss(forward(model, p, x, context).flatten(0, -2), y);
    for (const at::Tensor& logits : exits) {
      loss = loss + at::cross_entropy_loss(logits.flatten(0, -2), y);
    }
    exits.clear();
    loss.backward();
    momentum_step(p, velocity);
  }
  return account->peak_bytes();
}

inline std::string show(const Settings& options) {
  std::string text;
  for (const auto& [key, value] : options) text += key + "=" + value + " ";
  return text;
}

inline double expect_bound(const Setting& setting, const Model& model, const Submodel& submodel,
                           const std::string& cut) {
  const TrainingCost cost = training_cost(model, submodel, setting.batch, 1);
  const std::int64_t measured =
      measured_peak(model, submodel, setting.batch, setting.scaler, cost.message_bytes);
  const double ratio = static_cast<double>(cost.peak_bytes) / static_cast<double>(measured);
  const std::string what = formatted("{}cut {} batch {} threads {}", show(setting.options), cut,
                                     setting.batch, at::get_num_threads());
  EXPECT_LE(measured, cost.peak_bytes) << what;
  EXPECT_LE(ratio, 1.25) << what;
  if (std::getenv("ESPALIER_SHOW")) {
    fmt::print("ratio {:.4f} measured {:9} predicted {:9} activations {:9} {}\n", ratio, measured,
               cost.peak_bytes, cost.activation_bytes, what);
  }
  return ratio;
}

/// One thread, and every allocation counted.
class BoundTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { install_counting_allocator(); }
  void SetUp() override { at::set_num_threads(1); }
  void TearDown() override { at::set_num_threads(1); }
};

}  // namespace espalier
