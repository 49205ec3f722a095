// The steps of a top, without a server.

#include "espalier/protocol/split/top.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <numeric>

#include "espalier/protocol/split/tensors.h"
#include "scene.h"

namespace espalier::split {
namespace {

/// A top with weights of the scene.
class OneTop {
 public:
  explicit OneTop(const Scene& s) : scene_(s), top_(s.experiment, *s.parts) {
    at::set_num_threads(1);
    top_.begin(TopTask(), *s.weights(s.parts->top));
  }
  /// The gradient of the features of workers with these batches, which are parts of one list of
  /// samples from `first` on. The losses go to `sums`.
  at::Tensor step(std::vector<std::int64_t> samples, std::int64_t first = 0,
                  std::vector<std::int64_t> order = {}, std::vector<double>* sums = nullptr,
                  std::vector<Mixture> mixtures = {}) {
    const std::int64_t count = std::accumulate(samples.begin(), samples.end(), std::int64_t{0});
    const at::Tensor features =
        at::sin(at::arange(first * 12, (first + count) * 12, at::kFloat)).view({count, 12});
    TopTask task{
        .kind = TopTask::Kind::step, .samples = std::move(samples), .order = std::move(order)};
    task.mixtures = std::move(mixtures);
    task.shape = {12};
    for (std::int64_t i = first; i < first + count; ++i) task.labels.push_back(i * i % 10);
    const Stepper::Output output = top_.step(task, bytes_of(features));
    if (sums != nullptr) *sums = TopResult::decode(*output.head).loss_sums;
    return tensor_of(*output.payload, {count, 12});
  }
  Bytes weights() { return *top_.finish().payload; }

 private:
  const Scene& scene_;
  Top top_;
};

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST(Top, ReturnsEachWorkerTheGradientOfItsOwnBatch) {
  const Scene s = scene_of("");
  std::vector<double> sums;
  const at::Tensor merged = OneTop(s).step({5, 1, 3}, 0, {}, &sums);
  std::int64_t first = 0;
  for (std::size_t i = 0; const std::int64_t count : {5, 1, 3}) {
    std::vector<double> own;
    const at::Tensor alone = OneTop(s).step({count}, first, {}, &own);
    EXPECT_GT(alone.abs().max().item<double>(), 0.01);
    EXPECT_LT(largest_difference(merged.narrow(0, first, count), alone), 1e-6);
    EXPECT_NEAR(sums[i++], own[0], 1e-5);
    first += count;
  }
}

TEST(Top, StepsInTheGivenOrder) {
  const Scene s = scene_of("[split]\ntop = in_turn\n");
  OneTop both(s), second_first(s), one_by_one(s);
  const at::Tensor gradient = both.step({4, 2}, 0, {1, 0});
  const at::Tensor of_second = one_by_one.step({2}, 4, {0});
  const at::Tensor of_first = one_by_one.step({4}, 0, {0});
  EXPECT_EQ(largest_difference(gradient.narrow(0, 4, 2), of_second), 0);
  EXPECT_EQ(largest_difference(gradient.narrow(0, 0, 4), of_first), 0);
  EXPECT_GT(largest_difference(second_first.step({4, 2}, 0, {0, 1}), gradient), 1e-4);
  const Bytes weights = both.weights();
  EXPECT_EQ(weights, one_by_one.weights());
  EXPECT_NE(weights, second_first.weights());
}

TEST(Top, AccumulatesTheStepOnAllBatches) {
  const Scene merged_scene = scene_of(""), scene = scene_of("[split]\ntop = accumulated\n");
  OneTop merged(merged_scene), accumulated(scene);
  std::vector<double> merged_sums, sums;
  for (int step = 0; step < 3; ++step) {
    sums.clear();
    const at::Tensor expected = merged.step({5, 1, 3}, 9 * step, {}, &merged_sums);
    const at::Tensor gradient = accumulated.step({5, 1, 3}, 9 * step, {}, &sums);
    EXPECT_LT(largest_difference(gradient, expected), 1e-5);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(sums[i], merged_sums[i], 1e-4);
  }
  const Bytes weights = accumulated.weights(), expected = merged.weights();
  for (std::size_t i = 0; i < floats_of(weights).size(); ++i) {
    EXPECT_NEAR(floats_of(weights)[i], floats_of(expected)[i], 1e-5) << i;
  }
  OneTop alone_merged(merged_scene), alone(scene);
  EXPECT_EQ(largest_difference(alone_merged.step({4}), alone.step({4})), 0);
  EXPECT_EQ(alone_merged.weights(), alone.weights());
}

/// The mean of tops that have made one step each, for batches of these sizes.
std::vector<double> mean_of_copies(const Scene& s, const std::vector<std::int64_t>& samples) {
  std::vector<double> mean;
  std::int64_t first = 0;
  for (const std::int64_t count : samples) {
    OneTop copy(s);
    copy.step({count}, first);
    const Bytes weights = copy.weights();
    const auto values = floats_of(weights);
    mean.resize(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      mean[i] += static_cast<double>(values[i]) / static_cast<double>(samples.size());
    }
    first += count;
  }
  return mean;
}

TEST(Top, AveragesCopiesThatStepForOneWorkerEach) {
  const Scene merged = scene_of(""), s = scene_of("[split]\ntop = copies\n");
  OneTop top(s);
  std::vector<double> sums, merged_sums;
  const at::Tensor gradient = top.step({5, 1, 3}, 0, {}, &sums);
  const at::Tensor own = OneTop(merged).step({5, 1, 3}, 0, {}, &merged_sums);
  EXPECT_LT(largest_difference(gradient, own), 1e-6);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(sums[i], merged_sums[i], 1e-5);
  const std::vector<double> expected = mean_of_copies(merged, {5, 1, 3});
  const Bytes weights = top.weights(), first = *s.weights(s.parts->top);
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(floats_of(weights)[i], expected[i], 1e-6);
    largest = std::max(largest, std::abs(expected[i] - floats_of(first)[i]));
  }
  EXPECT_GT(largest, 1e-3);
}

TEST(Top, TrainsOnMixturesOfTwoWorkersFeatures) {
  // With a share of 1 a mixture is the worker's own features, so the gradient doubles; with a share
  // of 0 it is the partner's, which is the same in sum if each worker is the partner of one.
  const Scene merged = scene_of("[train]\nlr = 0.2\n"), s = scene_of("[split]\ntop = mixup\n");
  const at::Tensor real = OneTop(merged).step({4, 4, 4});
  std::vector<Bytes> weights;
  for (const double share : {1.0, 0.0, 0.4}) {
    OneTop top(s);
    const std::vector<Mixture> mixtures = {{1, share}, {2, share}, {0, share}};
    EXPECT_EQ(largest_difference(top.step({4, 4, 4}, 0, {}, nullptr, mixtures), real), 0);
    weights.push_back(top.weights());
  }
  OneTop twice(merged);
  twice.step({4, 4, 4});
  const Bytes expected = twice.weights();
  double mixed = 0;
  for (std::size_t i = 0; i < floats_of(expected).size(); ++i) {
    EXPECT_NEAR(floats_of(weights[0])[i], floats_of(expected)[i], 1e-6);
    EXPECT_NEAR(floats_of(weights[1])[i], floats_of(expected)[i], 1e-6);
    mixed = std::max<double>(mixed, std::abs(floats_of(weights[2])[i] - floats_of(expected)[i]));
  }
  EXPECT_GT(mixed, 1e-4);
}

}  // namespace
}  // namespace espalier::split
