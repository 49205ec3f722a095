// The memory bound of cost.h for parts of a split model: bottoms, which get the gradient of their
// output, and tops, which compute the gradient of their input.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "espalier/device/memory.h"
#include "espalier/model/cost.h"
#include "espalier/model/parameters.h"
#include "model/leading.h"
#include "momentum_step.h"

namespace espalier {
namespace {

using Settings = std::map<std::string, std::string>;

struct Family {
  Settings options;
  DataShape shape;
};

Model make(const Family& family) {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  for (const auto& [key, value] : family.options) config.set("model." + key, value, "test");
  return build_model(config, family.shape);
}

constexpr std::int64_t kBatch = 8;

at::Tensor samples(const Model& model) {
  std::vector<std::int64_t> shape = model.shape.sample;
  shape.insert(shape.begin(), kBatch);
  return at::zeros(shape, model.shape.vocabulary > 0 ? at::kLong : at::kFloat);
}

/// Peak bytes of three steps of the part. `features`: the shape of its input; empty: samples.
std::int64_t measured_peak(const Model& model, const Submodel& part, std::int64_t message_bytes,
                           const std::vector<std::int64_t>& features) {
  auto account = MemoryAccount::create(0);
  MemoryScope scope(account);
  account->charge(message_bytes);
  Parameters p(std::make_shared<const BufferLayout>(model.layout, part, Packing::aligned));
  p.attach_gradients();
  at::Tensor velocity;
  for (int step = 0; step < 3; ++step) {
    p.zero_gradients();
    Context context;
    context.mode = Mode::train;
    const at::Tensor x = features.empty() ? samples(model) : at::zeros(features).requires_grad_();
    const at::Tensor labels = at::zeros({kBatch * model.shape.targets()}, at::kLong);
    at::Tensor out = forward(model, p, x, context);
    if (model.answer(part) < 0) {
      out.backward(at::zeros_like(out));
    } else {
      const at::Tensor loss = at::cross_entropy_loss(std::exchange(out, {}).flatten(0, -2), labels);
      loss.backward();
    }
    momentum_step(p, velocity);
  }
  return account->peak_bytes();
}

void expect_bound(const Model& model, const Submodel& part,
                  const std::vector<std::int64_t>& features, const std::string& what) {
  const TrainingCost cost = training_cost(model, part, kBatch, 1);
  const std::int64_t measured = measured_peak(model, part, cost.message_bytes, features);
  EXPECT_LE(measured, cost.peak_bytes) << what;
  EXPECT_LE(static_cast<double>(cost.peak_bytes), 1.25 * static_cast<double>(measured)) << what;
}

TEST(PartCost, BoundsTheMemoryOfBottomsAndTops) {
  install_counting_allocator();
  at::set_num_threads(1);
  const Settings slim{{"depth", "3"}, {"embed", "48"}, {"heads", "4"}};
  const auto with = [](Settings settings, const Settings& more) {
    settings.insert(more.begin(), more.end());
    return settings;
  };
  const std::vector<Family> families{
      {{{"name", "mlp"}, {"hidden", "200,100"}}, {{1, 28, 28}, 10}},
      {{{"name", "lenet"}}, {{1, 28, 28}, 10}},
      {{{"name", "cnn"}, {"norm", "batch"}}, {{3, 32, 32}, 10}},
      {{{"name", "cnn1d"}, {"norm", "batch"}, {"channels", "32,32,64"}, {"first_stride", "4"}},
       {{1, 4096}, 10}},
      {{{"name", "vgg"}, {"width", "16"}}, {{3, 32, 32}, 10}},
      {{{"name", "resnet"}, {"width", "16"}}, {{3, 32, 32}, 10}},
      {with(slim, {{"name", "vit"}, {"patch", "4"}}), {{3, 32, 32}, 10}},
      {with(slim, {{"name", "gpt"}, {"tied", "false"}}), {{32}, 200, 200, true}},
      {with(slim, {{"name", "encoder"}}), {{32}, 4, 200, false}},
      {{{"name", "lstm"}, {"embed", "8"}, {"hidden", "48"}}, {{32}, 200, 200, true}},
      {{{"name", "lstm"}, {"embed", "8"}, {"hidden", "48"}}, {{32}, 4, 200, false}}};
  for (const Family& family : families) {
    const Model model = make(family);
    const auto blocks = static_cast<int>(model.blocks.size());
    for (const double fraction : {1.0, 0.5, 0.25}) {
      const Submodel submodel = leading(*model.layout, fraction);
      const TrainingCost whole = training_cost(model, submodel, kBatch, 1);
      for (int cut = 1; cut < blocks; ++cut) {
        const std::string what =
            formatted("{} at {}, cut before block {}", family.options.at("name"), fraction, cut);
        const Submodel bottom = part_of(model, submodel, 0, cut);
        const Submodel top = part_of(model, submodel, cut, blocks);
        c10::NoGradGuard no_grad;
        const Parameters values(
            std::make_shared<const BufferLayout>(model.layout, bottom, Packing::aligned));
        Context context;
        context.mode = Mode::train;
        const at::Tensor sent = forward(model, values, samples(model), context);
        {
          const c10::AutoGradMode grad(true);
          expect_bound(model, bottom, {}, "bottom of " + what);
          expect_bound(model, top, sent.sizes().vec(), "top of " + what);
        }
        const TrainingCost below = training_cost(model, bottom, kBatch, 1);
        const TrainingCost above = training_cost(model, top, kBatch, 1);
        EXPECT_EQ(below.output_bytes, sent.numel() * 4) << what;
        EXPECT_EQ(above.input_bytes, below.output_bytes) << what;
        EXPECT_EQ(below.step_flops + above.step_flops, whole.step_flops) << what;
        EXPECT_EQ(below.parameters + above.parameters, whole.parameters) << what;
      }
    }
  }
}

}  // namespace
}  // namespace espalier
