// A client's work against plain training, written independently with ATen: the same values to the
// last bit.

#include "espalier/train/client.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <numeric>

#include "espalier/device/memory.h"
#include "espalier/train/evaluate.h"

namespace espalier {
namespace {

Config small_config(const std::string& more) {
  OptionTable table;
  declare_experiment_options(table);
  declare_model_options(table);
  declare_data_options(table);
  declare_device_options(table);
  declare_train_options(table);
  declare_evaluation_options(table);
  Config config(table);
  config.read_text(
      "[data]\nname = synthetic\nsynthetic_samples = 230\nsynthetic_shape = 1, 12, 12\n"
      "[clients]\ncount = 1\n[model]\nname = mlp\nhidden = 32, 16\n",
      "the test");
  config.read_text(more, "the test's settings");
  return config;
}

struct Trained {
  ClientResult result;
  std::vector<float> values;
};

std::vector<float> first_values(const Experiment& e) {
  Parameters full(e.plans->geometry(Submodel::full(*e.model.layout), Packing::aligned));
  initialise(full, e.seed);
  auto dense = e.plans->geometry(full.submodel(), Packing::dense);
  std::vector<float> values(static_cast<std::size_t>(dense->size()));
  e.plans->plan(full.geometry(), *dense)->copy(std::as_const(full).data(), values.data());
  return values;
}

Trained train(const Experiment& e, const Config& config, std::int64_t base_version) {
  const std::vector<float> values = first_values(e);
  auto payload = std::make_shared<Bytes>(values.size() * sizeof(float));
  std::memcpy(payload->data(), values.data(), payload->size());
  ClientTask task;
  task.base_version = base_version;
  task.submodel = Submodel::full(*e.model.layout);
  ClientStepper stepper(e, make_cross_entropy, config, task, 1000, payload);
  while (stepper.step()) {
  }
  auto [result, bytes] = stepper.finish();
  Trained trained{result, std::vector<float>(bytes->size() / sizeof(float))};
  std::memcpy(trained.values.data(), bytes->data(), bytes->size());
  return trained;
}

TEST(ClientStepper, PeaksDoNotDependOnTheOrderOfSteps) {
  // Three tasks of different widths, taken to their ends in every order, and step by step in turn.
  install_counting_allocator();
  at::set_num_threads(1);
  const Config config = small_config("[train]\nmomentum = 0.9\n");
  const Experiment e = build_experiment(config);
  const std::vector<std::int64_t> widths{32, 16, 4};
  const auto run = [&](const std::vector<std::size_t>& turns) {
    std::vector<std::unique_ptr<ClientStepper>> steppers;
    for (const std::int64_t width : widths) {
      ClientTask task;
      task.submodel = Submodel::full(*e.model.layout);
      std::vector<std::int64_t> units(static_cast<std::size_t>(width));
      std::iota(units.begin(), units.end(), 0);
      task.submodel.keep(1, units);
      const auto dense = e.plans->geometry(task.submodel, Packing::dense);
      auto payload = std::make_shared<Bytes>(static_cast<std::size_t>(payload_bytes(*dense)));
      steppers.push_back(std::make_unique<ClientStepper>(e, make_cross_entropy, config, task,
                                                         payload_bytes(*dense), payload));
    }
    for (const std::size_t turn : turns) steppers[turn]->step();
    std::vector<std::int64_t> peaks;
    for (auto& stepper : steppers) {
      while (stepper->step()) {
      }
      peaks.push_back(stepper->finish().first.peak_bytes);
    }
    return peaks;
  };
  const auto reference = run({});
  EXPECT_GT(reference[0], reference[1]);
  EXPECT_GT(reference[1], reference[2]);
  const std::vector<std::size_t> whole(20, 2);
  EXPECT_EQ(run(whole), reference);
  EXPECT_EQ(run({2, 1, 0, 0, 1, 2, 1, 1, 2, 0}), reference);
  EXPECT_EQ(run({1, 1, 1, 2, 0, 2, 0}), reference);
}

/// Three linear layers and SGD with momentum and weight decay, on separate tensors.
std::vector<float> train_plainly(const Experiment& e, double lr, double momentum, double decay) {
  const std::vector<float> first = first_values(e);
  std::vector<at::Tensor> weights, velocities(6);
  std::size_t at = 0;
  for (auto [out, in] :
       {std::pair{32, 144}, {16, 32}, {static_cast<int>(e.data.shape.classes), 16}}) {
    for (std::vector<std::int64_t> shape : {std::vector<std::int64_t>{out, in}, {out}}) {
      at::Tensor w = at::empty(shape);
      std::memcpy(w.data_ptr<float>(), first.data() + at, static_cast<std::size_t>(w.numel()) * 4);
      at += static_cast<std::size_t>(w.numel());
      weights.push_back(w.set_requires_grad(true));
    }
  }
  for (std::int64_t epoch = 0; epoch < e.train.epochs; ++epoch) {
    const auto order = epoch_order(e.seed, 0, 0, epoch, e.partition->samples(0));
    for (std::size_t begin = 0; begin < order.size(); begin += 20) {
      const std::span<const std::int64_t> batch(order.data() + begin,
                                                std::min<std::size_t>(20, order.size() - begin));
      at::Tensor x = e.data.train->inputs(batch).flatten(1);
      x = at::relu(at::linear(x, weights[0], weights[1]));
      x = at::relu(at::linear(x, weights[2], weights[3]));
      x = at::linear(x, weights[4], weights[5]);
      at::Tensor loss = at::nll_loss(at::log_softmax(x, 1), e.data.train->labels(batch));
      for (at::Tensor& w : weights) w.mutable_grad() = at::Tensor();
      loss.backward();
      c10::NoGradGuard no_grad;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        at::Tensor g = weights[i].grad();
        if (decay != 0) g = g.add(weights[i], decay);
        if (momentum != 0) {
          velocities[i] = velocities[i].defined() ? velocities[i].mul(momentum).add(g) : g.clone();
          g = velocities[i];
        }
        weights[i].add_(g, -lr);
      }
    }
  }
  std::vector<float> values;
  for (const at::Tensor& w : weights) {
    const float* data = w.const_data_ptr<float>();
    values.insert(values.end(), data, data + w.numel());
  }
  return values;
}

TEST(ClientStepper, OneClientEqualsPlainTraining) {
  at::set_num_threads(1);
  const Config config = small_config("[train]\nbatch = 20\nlr = 0.05\nepochs = 2\n");
  const Experiment e = build_experiment(config);
  const Trained trained = train(e, config, 0);
  EXPECT_EQ(trained.values, train_plainly(e, 0.05, 0, 0));
  EXPECT_NE(trained.values, first_values(e));
  EXPECT_EQ(trained.result.samples, 2 * e.samples_of(0));
}

TEST(ClientStepper, MomentumAndWeightDecayEqualPlainTraining) {
  at::set_num_threads(1);
  const Config config =
      small_config("[train]\nbatch = 20\nlr = 0.02\nmomentum = 0.9\nweight_decay = 0.001\n");
  const Experiment e = build_experiment(config);
  EXPECT_EQ(train(e, config, 0).values, train_plainly(e, 0.02, 0.9, 0.001));
}

TEST(ClientStepper, StepScheduleLowersTheRateOfLaterVersions) {
  at::set_num_threads(1);
  const Config config = small_config(
      "[train]\nbatch = 20\nlr = 0.05\nschedule = step\nstep_every = 4\ndecay = 0.5\n");
  const Experiment e = build_experiment(config);
  EXPECT_EQ(train(e, config, 3).values, train_plainly(e, 0.05, 0, 0));
  EXPECT_EQ(train(e, config, 4).values, train_plainly(e, 0.025, 0, 0));
}

TEST(Workload, CountsBatchesAcrossEpochs) {
  TrainSettings s;
  s.batch = 20;
  s.epochs = 3;
  Workload w = workload(s, 50);
  EXPECT_EQ(w.steps, 9);
  EXPECT_EQ(w.full_steps, 6);
  EXPECT_EQ(w.rest, 10);
  EXPECT_EQ(w.samples, 150);
  s.steps = 4;  // an epoch of 20, 20, 10, and one more batch of 20
  w = workload(s, 50);
  EXPECT_EQ(w.steps, 4);
  EXPECT_EQ(w.full_steps, 3);
  EXPECT_EQ(w.samples, 70);
}

TEST(ClientTask, TravelsUnchanged) {
  const Config config = small_config("");
  const Experiment e = build_experiment(config);
  ClientTask task{
      7, 0, 3, 5, 123456789, true, false, Submodel::full(*e.model.layout), Bytes(3, std::byte{9})};
  task.submodel.keep(1, {0, 2, 3});
  const Bytes bytes = task.encode();
  const ClientTask copy = ClientTask::decode(*e.model.layout, bytes);
  EXPECT_EQ(copy.task, 7);
  EXPECT_EQ(copy.nth_task, 3);
  EXPECT_EQ(copy.base_version, 5);
  EXPECT_EQ(copy.finish, 123456789);
  EXPECT_TRUE(copy.answers_twice);
  EXPECT_FALSE(copy.not_finite);
  EXPECT_EQ(copy.submodel, task.submodel);
  EXPECT_EQ(copy.state, task.state);
}

TEST(Gradients, AreClippedToTheLimit) {
  at::Tensor g = at::full({4}, 3.0);  // norm 6
  clip_gradients(g, 12);
  EXPECT_TRUE(at::equal(g, at::full({4}, 3.0)));
  clip_gradients(g, 2);
  // PyTorch's rule divides by norm + 1e-6, a relative change of 1.7e-7, beside one rounding.
  EXPECT_NEAR(g.norm().item<double>(), 2, 2 * 4e-7);
}

}  // namespace
}  // namespace espalier
