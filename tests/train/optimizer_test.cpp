// Compares each optimiser with its rule in double precision, which has a running bound of the float
// rounding errors, and this rule with PyTorch's own code in double precision.

#include "espalier/train/optimizer.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <cstdlib>

#include "../model/test_layout.h"
#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "purpose.h"

namespace espalier {
namespace {

constexpr int kSteps = 50;
constexpr double kLr = 0.01;
constexpr double kUnit = 0x1p-24;  // of a float rounded to nearest

TrainSettings settings(OptimizerKind kind, double weight_decay = 0, double momentum = 0) {
  TrainSettings s;
  s.optimizer = kind;
  s.weight_decay = weight_decay;
  s.momentum = momentum;
  s.epsilon = 1e-8;
  s.alpha = 0.99;
  const bool adan = kind == OptimizerKind::adan;
  s.beta1 = adan ? 0.98 : 0.9;
  s.beta2 = adan ? 0.92 : 0.999;
  s.beta3 = 0.99;
  return s;
}

/// The fixed problem: weights of about 1, and gradients of any sign from 1e-3 to 1, for each step.
at::Tensor first_weights(std::int64_t size) {
  Stream stream(1, kTest, 1);
  at::Tensor w = at::empty({size});
  for (std::int64_t i = 0; i < size; ++i)
    w.data_ptr<float>()[i] = static_cast<float>(stream.normal());
  return w;
}

at::Tensor gradient(std::int64_t size, int step) {
  Stream stream(1, kTest, 2, static_cast<std::uint64_t>(step));
  at::Tensor g = at::empty({size});
  for (std::int64_t i = 0; i < size; ++i) {
    const double sign = stream.uniform() < 0.5 ? -1 : 1;
    g.data_ptr<float>()[i] = static_cast<float>(sign * std::pow(10, -3 * stream.uniform()));
  }
  return g;
}

at::Tensor train(const TrainSettings& s, std::int64_t size, int from = 0, int to = kSteps) {
  Optimizer optimizer(s, size);
  at::Tensor w = first_weights(size);
  for (int t = from; t < to; ++t) optimizer.step(w, gradient(size, t), kLr);
  return w;
}

/// A mean sum_i share^(t-i) (1 - share) x_i in double, and a bound on the error of the same mean in
/// float. A term passes through at most 4 roundings when it enters (1 - share, its square, the
/// product) and 3 in each later step (share, product, sum): so (3 t + 4) u times the mean of
/// absolute values, plus the errors of the x_i.
struct Mean {
  double value = 0, absolute = 0, carried = 0;
  int steps = 0;
  void add(double share, double x, double absolute_x, double error_x) {
    ++steps;
    value = share * value + (1 - share) * x;
    absolute = share * absolute + (1 - share) * absolute_x;
    carried = share * carried + (1 - share) * error_x;
  }
  double error() const { return (3 * steps + 4) * kUnit * absolute + carried; }
};

/// sqrt(mean) x correction + epsilon. The root halves the relative error of the mean; correction,
/// product, root and sum add 4 roundings.
struct Root {
  double value, relative_error;
  Root(const Mean& square, double correction, double epsilon)
      : value(std::sqrt(square.value) * correction + epsilon),
        relative_error(0.5 * square.error() / square.value + 4 * kUnit) {}
};

/// One weight, its rule in double precision and the bound.
struct Reference {
  const TrainSettings& s;
  double w;
  double error = 0;
  Mean mean{}, difference{}, square{};
  double velocity = 0, velocity_error = 0, previous = 0;
  int t = 0;

  void step(double g) {
    ++t;
    switch (s.optimizer) {
      case OptimizerKind::adam:
      case OptimizerKind::adamw:
        return adam(g);
      case OptimizerKind::adan:
        return adan(g);
      case OptimizerKind::rmsprop:
        return rmsprop(g);
      case OptimizerKind::sgd:
        FAIL();
    }
  }
  /// The move of a weight: factor, product, quotient and sum round 4 times more.
  void move(double by, double by_error) {
    w -= by;
    error += by_error + 4 * kUnit * (std::abs(by) + std::abs(w));
  }
  void penalise(double& g, double& g_error) const {
    g_error = s.weight_decay * error + 3 * kUnit * (std::abs(g) + s.weight_decay * std::abs(w));
    g += s.weight_decay * w;
  }
  void adam(double g) {
    double g_error = 0;
    if (s.optimizer == OptimizerKind::adamw) {
      w *= 1 - kLr * s.weight_decay;
      error += 2 * kUnit * std::abs(w);
    } else {
      penalise(g, g_error);
    }
    mean.add(s.beta1, g, std::abs(g), g_error);
    square.add(s.beta2, g * g, g * g, 2.1 * std::abs(g) * g_error);
    const Root root(square, 1 / std::sqrt(1 - std::pow(s.beta2, t)), s.epsilon);
    const double by = kLr / (1 - std::pow(s.beta1, t)) * mean.value / root.value;
    move(by, kLr / (1 - std::pow(s.beta1, t)) * mean.error() / root.value +
                 std::abs(by) * root.relative_error);
  }
  void adan(double g) {
    const double d = t == 1 ? 0 : g - previous;
    const double absolute_d = std::abs(g) + std::abs(previous);
    const double ahead = g + s.beta2 * d;
    const double absolute_ahead = std::abs(g) + s.beta2 * absolute_d;
    previous = g;
    mean.add(s.beta1, g, std::abs(g), 0);
    difference.add(s.beta2, d, absolute_d, kUnit * absolute_d);
    square.add(s.beta3, ahead * ahead, ahead * ahead,
               2.1 * std::abs(ahead) * 4 * kUnit * absolute_ahead);
    const Root root(square, 1 / std::sqrt(1 - std::pow(s.beta3, t)), s.epsilon);
    const double mean_step = kLr / (1 - std::pow(s.beta1, t));
    const double difference_step = kLr * s.beta2 / (1 - std::pow(s.beta2, t));
    const double by = (mean_step * mean.value + difference_step * difference.value) / root.value;
    const double by_error =
        (mean_step * (mean.error() + 3 * kUnit * mean.absolute) +
         difference_step * (difference.error() + 3 * kUnit * difference.absolute)) /
            root.value +
        std::abs(by) * root.relative_error;
    move(by, by_error);
    w /= 1 + kLr * s.weight_decay;
    error += 2 * kUnit * std::abs(w);
  }
  void rmsprop(double g) {
    double g_error = 0;
    penalise(g, g_error);
    square.add(s.alpha, g * g, g * g, 2.1 * std::abs(g) * g_error);
    const Root root(square, 1, s.epsilon);
    const double term = g / root.value;
    const double term_error = g_error / root.value + std::abs(term) * (root.relative_error + kUnit);
    velocity_error = s.momentum * velocity_error + term_error;
    velocity = s.momentum * velocity + term;
    velocity_error += 3 * kUnit * std::abs(velocity);
    move(kLr * velocity, kLr * velocity_error);
  }
};

std::vector<Reference> reference(const TrainSettings& s, std::int64_t size) {
  const at::Tensor w = first_weights(size);
  std::vector<Reference> weights;
  for (std::int64_t i = 0; i < size; ++i) {
    weights.push_back(Reference{.s = s, .w = w.const_data_ptr<float>()[i]});
  }
  for (int t = 0; t < kSteps; ++t) {
    const at::Tensor g = gradient(size, t);
    for (std::int64_t i = 0; i < size; ++i) {
      weights[static_cast<std::size_t>(i)].step(g.const_data_ptr<float>()[i]);
    }
  }
  return weights;
}

void expect_rule(const TrainSettings& s) {
  constexpr std::int64_t kSize = 1000;
  const at::Tensor w = train(s, kSize);
  const std::vector<Reference> expected = reference(s, kSize);
  double largest_bound = 0, largest_share = 0;
  for (std::int64_t i = 0; i < kSize; ++i) {
    const Reference& r = expected[static_cast<std::size_t>(i)];
    const double difference = std::abs(w.const_data_ptr<float>()[i] - r.w);
    ASSERT_LE(difference, r.error) << "weight " << i;
    largest_bound = std::max(largest_bound, r.error);
    largest_share = std::max(largest_share, difference / r.error);
  }
  // The bound is small: weights move by up to kLr per step.
  EXPECT_LT(largest_bound, 1e-3 * kLr * kSteps);
  if (std::getenv("ESPALIER_SHOW")) {
    fmt::print("largest bound {:.2e}, largest error as a share of its bound {:.3f}\n",
               largest_bound, largest_share);
  }
}

template <class TorchOptimizer, class Options>
void expect_torch(const TrainSettings& s, const Options& options) {
  constexpr std::int64_t kSize = 1000;
  at::Tensor w = first_weights(kSize).to(at::kDouble).set_requires_grad(true);
  TorchOptimizer optimizer(std::vector<at::Tensor>{w}, options);
  for (int t = 0; t < kSteps; ++t) {
    w.mutable_grad() = gradient(kSize, t).to(at::kDouble);
    optimizer.step();
  }
  const std::vector<Reference> expected = reference(s, kSize);
  for (std::int64_t i = 0; i < kSize; ++i) {
    // Both in double: 50 steps of some 20 roundings of 1e-16.
    ASSERT_NEAR(w.const_data_ptr<double>()[i], expected[static_cast<std::size_t>(i)].w, 1e-12);
  }
}

TEST(Optimizer, AdamFollowsItsRuleAndPyTorch) {
  for (const double decay : {0.0, 0.01}) {
    const TrainSettings s = settings(OptimizerKind::adam, decay);
    expect_rule(s);
    expect_torch<torch::optim::Adam>(s, torch::optim::AdamOptions(kLr).weight_decay(decay));
  }
}

TEST(Optimizer, AdamWFollowsItsRuleAndPyTorch) {
  const TrainSettings s = settings(OptimizerKind::adamw, 0.1);
  expect_rule(s);
  expect_torch<torch::optim::AdamW>(s, torch::optim::AdamWOptions(kLr).weight_decay(0.1));
}

TEST(Optimizer, RmsPropFollowsItsRuleAndPyTorch) {
  for (const double momentum : {0.0, 0.9}) {
    const TrainSettings s = settings(OptimizerKind::rmsprop, 0.01, momentum);
    expect_rule(s);
    expect_torch<torch::optim::RMSprop>(
        s, torch::optim::RMSpropOptions(kLr).weight_decay(0.01).momentum(momentum));
  }
}

TEST(Optimizer, AdanFollowsItsRule) {
  for (const double decay : {0.0, 0.02}) expect_rule(settings(OptimizerKind::adan, decay));
}

TEST(Optimizer, SgdIsPyTorchsToTheLastBit) {
  constexpr std::int64_t kSize = 1000;
  for (const double momentum : {0.0, 0.9}) {
    for (const bool nesterov : {false, momentum > 0}) {
      TrainSettings s = settings(OptimizerKind::sgd, 0.01, momentum);
      s.nesterov = nesterov;
      at::Tensor w = first_weights(kSize).set_requires_grad(true);
      torch::optim::SGD torch_sgd(
          std::vector<at::Tensor>{w},
          torch::optim::SGDOptions(kLr).weight_decay(0.01).momentum(momentum).nesterov(nesterov));
      for (int t = 0; t < kSteps; ++t) {
        w.mutable_grad() = gradient(kSize, t);
        torch_sgd.step();
      }
      EXPECT_TRUE(at::equal(w.detach(), train(s, kSize)));
    }
  }
}

const std::vector<TrainSettings>& all_kinds() {
  static const std::vector<TrainSettings> all{
      settings(OptimizerKind::sgd, 0.01),  settings(OptimizerKind::sgd, 0.01, 0.9),
      settings(OptimizerKind::adam, 0.01), settings(OptimizerKind::adamw, 0.01),
      settings(OptimizerKind::adan, 0.01), settings(OptimizerKind::rmsprop, 0.01, 0.9),
      settings(OptimizerKind::rmsprop)};
  return all;
}

TEST(Optimizer, ValuesDoNotDependOnHowABufferIsCut) {
  // One value at a time is the extreme case of registers of any width and of several threads.
  constexpr std::int64_t kSize = 100003;
  for (const TrainSettings& s : all_kinds()) {
    at::set_num_threads(1);
    const at::Tensor whole = train(s, kSize, 0, 3);
    at::set_num_threads(2);
    EXPECT_TRUE(at::equal(whole, train(s, kSize, 0, 3)));
    at::set_num_threads(1);
    at::Tensor w = first_weights(kSize);
    std::vector<at::Tensor> gradients{gradient(kSize, 0), gradient(kSize, 1), gradient(kSize, 2)};
    for (std::int64_t i = 0; i < 200; ++i) {
      Optimizer optimizer(s, 1);
      for (at::Tensor& g : gradients) optimizer.step(w.narrow(0, i, 1), g.narrow(0, i, 1), kLr);
    }
    EXPECT_TRUE(at::equal(whole.narrow(0, 0, 200), w.narrow(0, 0, 200)));
  }
}

TEST(Optimizer, LeavesPaddingAtZero) {
  for (const TrainSettings& s : all_kinds()) {
    Optimizer optimizer(s, 16);
    at::Tensor w = at::zeros({16});
    for (int t = 0; t < 3; ++t) optimizer.step(w, at::zeros({16}), kLr);
    EXPECT_TRUE(at::equal(w, at::zeros({16})));
  }
}

class OptimizerArchive : public ::testing::Test {
 protected:
  std::shared_ptr<const Layout> layout_ = testing::make_layout();
  PlanCache plans_{layout_};

  Submodel cut(std::vector<std::int64_t> hidden, std::vector<std::int64_t> channels) const {
    Submodel submodel = Submodel::full(*layout_);
    submodel.keep(testing::kHidden, std::move(hidden));
    submodel.keep(testing::kChannels, std::move(channels));
    return submodel;
  }
  std::int64_t trained(const BufferLayout& g) const { return g.kind_range(Kind::trainable).size(); }
  /// A gradient for every value of the full model, 1, 2, 3, ..., cut to `g`.
  at::Tensor numbered(const BufferLayout& g) {
    const auto full = plans_.buffer_layout(Submodel::full(*layout_), Packing::aligned);
    at::Tensor all = at::arange(1, full->size() + 1, at::kFloat);
    at::Tensor cut = at::zeros({g.size()});
    plans_.plan(*full, g, nullptr, 1u)->copy(all.const_data_ptr<float>(), cut.data_ptr<float>());
    return cut.narrow(0, 0, trained(g)).clone();
  }
  Bytes save(Optimizer& optimizer, const BufferLayout& g) {
    ByteArchive archive;
    optimizer.archive(archive, plans_, g);
    return archive.take();
  }
};

TEST_F(OptimizerArchive, AnInterruptedTrainingContinuesUnchanged) {
  const auto g = plans_.buffer_layout(cut({0, 2, 7}, {1, 5}), Packing::aligned);
  const std::int64_t size = trained(*g);
  const at::Tensor mask = (numbered(*g) > 0).to(at::kFloat);  // padding is zero
  for (const TrainSettings& s : all_kinds()) {
    at::Tensor whole = first_weights(size) * mask, parts = whole.clone();
    Optimizer one(s, size);
    for (int t = 0; t < 20; ++t) one.step(whole, gradient(size, t) * mask, kLr);
    Bytes state;
    for (int task = 0; task < 4; ++task) {
      Optimizer optimizer(s, size);
      if (task > 0) {
        ByteArchive archive(state);
        optimizer.archive(archive, plans_, *g);
        EXPECT_TRUE(archive.at_end());
      }
      for (int t = 5 * task; t < 5 * task + 5; ++t) {
        optimizer.step(parts, gradient(size, t) * mask, kLr);
      }
      state = save(optimizer, *g);
    }
    EXPECT_TRUE(at::equal(whole, parts));
  }
}

TEST_F(OptimizerArchive, KeptUnitsKeepTheirStateAndNewOnesStartAtZero) {
  const TrainSettings s = settings(OptimizerKind::sgd, 0, 0.5);  // the velocity is the gradient
  const auto before = plans_.buffer_layout(cut({0, 2, 3, 7}, {0, 1, 5}), Packing::aligned);
  const auto after = plans_.buffer_layout(cut({2, 3, 4, 5, 8}, {1, 2, 5}), Packing::aligned);
  Optimizer first(s, trained(*before));
  first.step(at::zeros({trained(*before)}), numbered(*before), 1);
  const Bytes state = save(first, *before);

  Optimizer second(s, trained(*after));
  ByteArchive archive(state);
  second.archive(archive, plans_, *after);
  at::Tensor w = at::zeros({trained(*after)});
  second.step(w, at::zeros({trained(*after)}), 1);  // w = -velocity = -gradient / 2
  const at::Tensor own = numbered(*after);
  // A value is its position in the full model, so it tells if the first submodel had it.
  const at::Tensor there = at::isin(own, numbered(*before)).logical_and(own > 0);
  EXPECT_TRUE(at::equal(w, at::where(there, own * -0.5, at::zeros({}))));
  EXPECT_GT(there.sum().item<std::int64_t>(), 0);
  EXPECT_LT(there.sum().item<std::int64_t>(), (own > 0).sum().item<std::int64_t>());
}

TEST_F(OptimizerArchive, HasEveryBufferDenseAndLittleElse) {
  const auto g = plans_.buffer_layout(cut({0, 2, 7}, {1, 5}), Packing::aligned);
  for (const TrainSettings& s : all_kinds()) {
    Optimizer optimizer(s, trained(*g));
    const auto bytes = static_cast<std::int64_t>(save(optimizer, *g).size());
    const std::int64_t values = 4 * Optimizer::copies(s) * g->count(Kind::trainable);
    EXPECT_GE(bytes, values);
    EXPECT_LE(bytes, values + 512);
  }
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
