// The promise that lets clients be placed by the cost model: what a client's memory account
// measures over a whole task is at most the predicted peak, and the prediction is at most a quarter
// too high.

#include "espalier/model/cost.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "espalier/device/memory.h"
#include "espalier/model/parameters.h"

namespace espalier {
namespace {

struct Setting {
  std::string name;
  std::string norm;
  DataShape shape;
  double share;
  std::int64_t batch;
  bool momentum;
};

Model make(const Setting& setting) {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  config.set("model.name", setting.name, "test");
  config.set("model.norm", setting.norm, "test");
  return build_model(config, setting.shape);
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

/// Peak bytes of three training steps as a client task makes them.
std::int64_t measured_peak(const Model& model, const Submodel& submodel, const Setting& setting,
                           std::int64_t message_bytes) {
  auto account = MemoryAccount::create(0);
  MemoryScope scope(account);
  account->charge(message_bytes);
  Parameters p(std::make_shared<const Geometry>(model.layout, submodel, Packing::aligned));
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
    c10::NoGradGuard no_grad;
    if (setting.momentum) {
      if (!velocity.defined()) {
        velocity = p.gradients().clone();
      } else {
        velocity.mul_(0.9).add_(p.gradients());
      }
    }
    p.trainable().add_(setting.momentum ? velocity : p.gradients(), -0.01);
  }
  return account->peak_bytes();
}

TEST(CostBound, MeasuredIsAtMostPredictedAndAtLeastFourFifthsOfIt) {
  install_counting_allocator();
  const DataShape mnist{{1, 28, 28}, 10};
  const DataShape cifar{{3, 32, 32}, 10};
  double loosest = 1;
  for (const char* name : {"mlp", "lenet", "cnn"}) {
    for (const char* norm : {"none", "batch", "group", "layer"}) {
      for (const DataShape& shape : {mnist, cifar}) {
        for (const double share : {1.0, 0.5, 0.25}) {
          for (const std::int64_t batch : {8, 20, 64}) {
            const bool momentum = batch == 20;
            const Setting setting{name, norm, shape, share, batch, momentum};
            const Model model = make(setting);
            const Submodel submodel = leading(*model.layout, share);
            const TrainingCost cost = training_cost(model, submodel, batch, momentum ? 1 : 0);
            const std::int64_t measured =
                measured_peak(model, submodel, setting, cost.message_bytes);
            const std::string what = fmt::format("{} {} {}x{} share {} batch {}", name, norm,
                                                 shape.sample[0], shape.sample[1], share, batch);
            EXPECT_LE(measured, cost.peak_bytes) << what;
            const double ratio =
                static_cast<double>(cost.peak_bytes) / static_cast<double>(measured);
            EXPECT_LE(ratio, 1.25) << what;
            loosest = std::max(loosest, ratio);
            if (std::getenv("ESPALIER_SHOW")) {
              fmt::print("{:40} measured {:9} predicted {:9} ratio {:.4f}\n", what, measured,
                         cost.peak_bytes, ratio);
            }
          }
        }
      }
    }
  }
  EXPECT_GT(loosest, 1);
}

}  // namespace
}  // namespace espalier
