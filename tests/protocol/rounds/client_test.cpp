// A client's work against plain training, written independently with ATen: the same values to the
// last bit.

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <numeric>

#include "espalier/device/memory.h"
#include "espalier/model/cost.h"
#include "espalier/protocol/rounds/client_stepper.h"
#include "espalier/train/evaluate.h"

namespace espalier::rounds {
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
  Parameters full(e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned));
  initialise(full, e.seed);
  auto dense = e.plans->buffer_layout(full.submodel(), Packing::dense);
  std::vector<float> values(static_cast<std::size_t>(dense->size()));
  e.plans->plan(full.buffer_layout(), *dense)->copy(std::as_const(full).data(), values.data());
  return values;
}

Trained train(const Experiment& e, const Config& config, std::int64_t base_version) {
  const std::vector<float> values = first_values(e);
  auto payload = std::make_shared<Bytes>(values.size() * sizeof(float));
  std::memcpy(payload->data(), values.data(), payload->size());
  ClientTask task;
  task.base_version = base_version;
  task.submodel = Submodel::full(*e.model.layout);
  ClientStepper stepper({config, e}, {}, task, 1000, payload);
  while (stepper.step()) {
  }
  auto [result, bytes] = stepper.finish();
  const auto* trained = reinterpret_cast<const float*>(bytes->data());
  return {result, {trained, trained + bytes->size() / sizeof(float)}};
}

TEST(ClientStepper, PeaksDoNotDependOnTheOrderOfSteps) {
  // Three tasks of different widths, finished in every order, and with alternating steps.
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
      const auto dense = e.plans->buffer_layout(task.submodel, Packing::dense);
      auto payload = std::make_shared<Bytes>(static_cast<std::size_t>(payload_bytes(*dense)));
      steppers.push_back(std::make_unique<ClientStepper>(RuleContext{config, e}, ClientRules{},
                                                         task, payload_bytes(*dense), payload));
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

#ifdef __SANITIZE_ADDRESS__
constexpr bool kFreesAtOnce = false;  // the sanitizer delays the release of memory
#else
constexpr bool kFreesAtOnce = true;
#endif

/// Resident memory of this process, in bytes.
std::int64_t resident_bytes() {
  std::int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(ClientStepper, AThousandFailuresLeaveMemoryWhereItWas) {
  install_counting_allocator();
  at::set_num_threads(1);
  const Config free = small_config("[train]\nmomentum = 0.9\n");
  const Trained whole = train(build_experiment(free), free, 0);
  const double cap = 0.5e-6 * static_cast<double>(whole.result.peak_bytes);
  const Config config = small_config(
      formatted("[train]\nmomentum = 0.9\n[device.laptop]\nmemory_mb = {:.6f}\n", cap));
  const Experiment e = build_experiment(config);
  std::int64_t before = 0;
  for (int i = 0; i < 1100; ++i) {
    if (i == 100) before = resident_bytes();
    const ClientResult result = train(e, config, 0).result;
    ASSERT_TRUE(result.out_of_memory);
    ASSERT_GT(result.asked_bytes, 0);
  }
  // A leak of one batch of images (20 x 144 floats) in each task would be 11.5 MB.
  if (kFreesAtOnce) {
    EXPECT_LT(resident_bytes() - before, 1 << 20);
  }
  const Trained again = train(build_experiment(free), free, 0);
  EXPECT_EQ(again.values, whole.values);
  EXPECT_EQ(again.result.peak_bytes, whole.result.peak_bytes);
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

TEST(ClientTask, TravelsUnchanged) {
  const Config config = small_config("");
  const Experiment e = build_experiment(config);
  ClientTask task;
  task.task = 7;
  task.nth_task = 3;
  task.base_version = 5;
  task.finish = 123456789;
  task.answers_twice = true;
  task.submodel = Submodel::full(*e.model.layout);
  task.state = Bytes(3, std::byte{9});
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

/// The trained values of a task, as the payload of the next one.
SharedBytes payload_of(const std::vector<float>& values) {
  auto payload = std::make_shared<Bytes>(values.size() * sizeof(float));
  std::memcpy(payload->data(), values.data(), payload->size());
  return payload;
}

/// The client's tasks one after the other: each starts from the last one's values and state.
Trained train_tasks(const Experiment& e, const Config& config, int tasks) {
  Trained last{{}, first_values(e)};
  for (int n = 0; n < tasks; ++n) {
    ClientTask task;
    task.nth_task = n;
    task.submodel = Submodel::full(*e.model.layout);
    task.state = last.result.state;
    ClientStepper stepper({config, e}, {}, task, 1000, payload_of(last.values));
    while (stepper.step()) {
    }
    auto [result, bytes] = stepper.finish();
    last.result = result;
    std::memcpy(last.values.data(), bytes->data(), bytes->size());
  }
  return last;
}

/// The same batches in one uninterrupted training with one optimiser.
std::vector<float> train_without_tasks(const Experiment& e, int tasks) {
  const auto full = Submodel::full(*e.model.layout);
  Parameters p(e.plans->buffer_layout(full, Packing::aligned));
  initialise(p, e.seed);
  p.attach_gradients();
  Optimizer optimizer(e.train, p.trainable().numel());
  for (int n = 0; n < tasks; ++n) {
    const auto order = epoch_order(e.seed, 0, n, 0, e.partition->samples(0));
    for (std::size_t begin = 0; begin < order.size(); begin += 20) {
      const std::span<const std::int64_t> batch(order.data() + begin,
                                                std::min<std::size_t>(20, order.size() - begin));
      Context context;
      context.mode = Mode::train;
      p.zero_gradients();
      at::cross_entropy_loss(forward(e.model, p, e.data.train->inputs(batch), context),
                             e.data.train->labels(batch))
          .backward();
      optimizer.step(p.trainable(), p.gradients(), e.train.lr);
    }
  }
  const auto dense = e.plans->buffer_layout(full, Packing::dense);
  std::vector<float> values(static_cast<std::size_t>(dense->size()));
  e.plans->plan(p.buffer_layout(), *dense)->copy(std::as_const(p).data(), values.data());
  return values;
}

TEST(OptimizerState, KeptOverTasksEqualsOneLongTraining) {
  at::set_num_threads(1);
  for (const char* optimizer : {"sgd", "adam", "adamw", "adan", "rmsprop"}) {
    const std::string lines = formatted(
        "[train]\nbatch = 20\nlr = 0.002\nmomentum = 0.9\nweight_decay = 0.01\noptimizer = {}\n",
        optimizer);
    const Config keeping = small_config(lines + "optimizer_state = keep\n");
    const Experiment e = build_experiment(keeping);
    const Trained kept = train_tasks(e, keeping, 4);
    EXPECT_EQ(kept.values, train_without_tasks(e, 4)) << optimizer;
    const std::int64_t values = 4 * static_cast<std::int64_t>(kept.values.size());
    EXPECT_GE(std::ssize(kept.result.state), Optimizer::copies(e.train) * values);

    const Config resetting = small_config(lines);
    const Trained reset = train_tasks(build_experiment(resetting), resetting, 4);
    EXPECT_NE(reset.values, kept.values) << optimizer;
    EXPECT_TRUE(reset.result.state.empty());
  }
}

TEST(OptimizerState, IsNothingForPlainSgd) {
  const Config config = small_config("[train]\noptimizer_state = keep\n");
  EXPECT_TRUE(train_tasks(build_experiment(config), config, 2).result.state.empty());
}

TEST(OptimizerState, IsPartOfThePredictedMemory) {
  install_counting_allocator();
  at::set_num_threads(1);
  for (const char* optimizer : {"sgd", "adam", "adamw", "adan", "rmsprop"}) {
    const Config config =
        small_config(formatted("[train]\noptimizer = {}\noptimizer_state = keep\nmomentum = 0.9\n"
                               "label_smoothing = 0.1\n",
                               optimizer));
    const Experiment e = build_experiment(config);
    const Trained second = train_tasks(e, config, 2);
    const TrainingCost cost =
        training_cost(e.model, Submodel::full(*e.model.layout), 20, Optimizer::copies(e.train));
    const std::int64_t predicted = cost.peak_bytes - cost.message_bytes + 1000;  // as charged here
    EXPECT_LE(second.result.peak_bytes, predicted) << optimizer;
    EXPECT_LE(predicted, second.result.peak_bytes * 5 / 4) << optimizer;
  }
}

TEST(Accumulation, HoldsTheMemoryOfOnePart) {
  install_counting_allocator();
  at::set_num_threads(1);
  const auto peak = [](const char* lines) {
    const Config config = small_config(std::string("[model]\nname = lenet\n[train]\n") + lines);
    return train_tasks(build_experiment(config), config, 1).result.peak_bytes;
  };
  const std::int64_t part = peak("batch = 15\n");
  // The seed of the backward pass is one float more.
  EXPECT_LE(peak("batch = 60\naccumulate = 4\n"), part + 64);
  EXPECT_GE(peak("batch = 60\n"), 2 * part);
}

/// Softmax regression in double precision: mean gradient of whole batches, smoothed labels.
std::vector<double> regress(const Experiment& e, std::int64_t batch, double smoothing) {
  const std::vector<float> first = first_values(e);
  std::vector<double> w(first.begin(), first.end());
  const auto classes = static_cast<std::size_t>(e.data.shape.classes);
  const std::size_t inputs = w.size() / classes - 1;
  const auto order = epoch_order(e.seed, 0, 0, 0, e.partition->samples(0));
  for (std::size_t begin = 0; begin < order.size(); begin += static_cast<std::size_t>(batch)) {
    const std::size_t count = std::min(static_cast<std::size_t>(batch), order.size() - begin);
    const std::span<const std::int64_t> indices(order.data() + begin, count);
    const at::Tensor x = e.data.train->inputs(indices).flatten(1);
    const at::Tensor y = e.data.train->labels(indices);
    std::vector<double> gradient(w.size(), 0);
    for (std::size_t i = 0; i < count; ++i) {
      const float* row = x.const_data_ptr<float>() + i * inputs;
      std::vector<double> share(classes);
      double sum = 0;
      for (std::size_t c = 0; c < classes; ++c) {
        double logit = w[classes * inputs + c];
        for (std::size_t k = 0; k < inputs; ++k) logit += w[c * inputs + k] * row[k];
        sum += share[c] = std::exp(logit);
      }
      for (std::size_t c = 0; c < classes; ++c) {
        const bool own = static_cast<std::int64_t>(c) == y.const_data_ptr<std::int64_t>()[i];
        const double target = (own ? 1 - smoothing : 0) + smoothing / static_cast<double>(classes);
        const double d = (share[c] / sum - target) / static_cast<double>(count);
        for (std::size_t k = 0; k < inputs; ++k) gradient[c * inputs + k] += d * row[k];
        gradient[classes * inputs + c] += d;
      }
    }
    for (std::size_t j = 0; j < w.size(); ++j) w[j] -= e.train.lr * gradient[j];
  }
  return w;
}

TEST(Accumulation, GivesTheGradientOfTheWholeBatchsMean) {
  at::set_num_threads(1);
  const std::string base = "[model]\nhidden =\n[train]\nbatch = 20\nlr = 0.05\n";
  for (const char* more : {"", "accumulate = 3\n", "accumulate = 20\nlabel_smoothing = 0.2\n"}) {
    const Config config = small_config(base + more);
    const Experiment e = build_experiment(config);
    const std::vector<float> values = train(e, config, 0).values;
    const std::vector<double> expected = regress(e, 20, e.train.label_smoothing);
    ASSERT_EQ(values.size(), expected.size());
    // A logit is a sum of 145 products below 1 in magnitude: an error of at most 145^2 u = 1.3e-3
    // if all roundings had one sign, their root, 1.1e-4, in practice; a probability has at most
    // that error, and 12 steps of rate 0.05 add up gradients of inputs of about 1.
    const double bound = 12 * 0.05 * 1.1e-4;
    double moved = 0;
    const std::vector<float> first = first_values(e);
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(values[i], expected[i], bound) << more << i;
      moved = std::max(moved, std::abs(static_cast<double>(values[i]) - first[i]));
    }
    EXPECT_GT(moved, 300 * bound);
  }
}

TEST(CrossEntropy, SmoothsLabelsAsPyTorchDoes) {
  at::Tensor logits = at::linspace(-3, 3, 2 * 4 * 7).reshape({2, 4, 7}).set_requires_grad(true);
  const at::Tensor labels = at::arange(8).reshape({2, 4}).remainder(7);
  at::Tensor exact = logits.detach().to(at::kDouble).set_requires_grad(true);
  const at::Tensor loss = cross_entropy(logits, labels, 0.2);
  const at::Tensor torch_loss = at::cross_entropy_loss(exact.flatten(0, 1), labels.flatten(), {},
                                                       at::Reduction::Mean, -100, 0.2);
  loss.backward();
  torch_loss.backward();
  // Values up to 3 with some 20 roundings of 6e-8 of them; gradients are at most 1 / 8.
  EXPECT_NEAR(loss.item<double>(), torch_loss.item<double>(), 20 * 3 * 6e-8);
  EXPECT_LE((logits.grad() - exact.grad()).abs().max().item<double>(), 20 * 6e-8 / 8);
}

TEST(MixedBatches, EachDeviceHasItsOwn) {
  at::set_num_threads(1);
  const Config config = small_config(
      "[clients]\ncount = 2\nfleet = small, laptop\n[device.small]\nbatch = 7\n[train]\nbatch = "
      "20\n");
  const Experiment e = build_experiment(config);
  EXPECT_EQ(e.batch_of(0), 7);
  EXPECT_EQ(e.batch_of(1), 20);
  for (const std::int64_t client : {0, 1}) {
    ClientTask task;
    task.client = client;
    task.submodel = Submodel::full(*e.model.layout);
    ClientStepper stepper({config, e}, {}, task, 0, payload_of(first_values(e)));
    while (stepper.step()) {
    }
    const std::int64_t batch = client == 0 ? 7 : 20;
    EXPECT_EQ(stepper.finish().first.steps, (e.samples_of(client) + batch - 1) / batch);
  }
}

}  // namespace
}  // namespace espalier::rounds
