// PruneFL's clients and server: gradients of pruned weights, and values that return.

#include <cmath>
#include <cstring>
#include <numeric>

#include "espalier/protocol/rounds/merge.h"
#include "fixture.h"
#include "merge_scene.h"

namespace espalier::rounds {
namespace {

constexpr float kRate = 0.1F;

/// Every batch has all samples.
std::unique_ptr<Setting> setting(const std::string& objective) {
  return make_setting(
      "[data]\nsynthetic_samples = 40\n[model]\nname = mlp\nhidden = 12\n[train]\nlr = 0.1\nbatch "
      "= "
      "40\nsteps = 1\n[method]\nname = prunefl_published\nobjective = " +
          objective + "\n",
      "");
}

/// The values after one step, or two, of the client from `sent`.
std::vector<float> trained(const Setting& s, const std::vector<float>& sent) {
  const auto payload = std::make_shared<Bytes>(sent.size() * sizeof(float));
  std::memcpy(payload->data(), sent.data(), payload->size());
  return train_from(s, Submodel::full(*s.experiment.model.layout), payload).values;
}

TEST(PrunedWeights, SendTheirGradientsAndStayOutOfTheNetwork) {
  const auto plain = setting("cross_entropy");
  const auto pruned = setting("pruned_weights");
  std::vector<float> sent = train(*plain, Submodel::full(*plain->experiment.model.layout)).sent;
  // Every third weight of the first matrix, which begins the dense buffer: 256 x 12.
  std::vector<std::size_t> zeros;
  for (std::size_t i = 0; i < 256 * 12; i += 3) zeros.push_back(i);
  for (const std::size_t i : zeros) sent[i] = 0;
  // From a zero, a plain step ends at minus the rate times the gradient.
  const std::vector<float> first = trained(*plain, sent);
  EXPECT_EQ(trained(*pruned, sent), first);
  std::vector<float> masked = first;
  for (const std::size_t i : zeros) masked[i] = 0;
  const std::vector<float> second = trained(*plain, masked);
  // Two steps: of kept weights those of the masked network; of pruned ones the sum of gradients.
  const auto two = make_setting(
      "[data]\nsynthetic_samples = 40\n[model]\nname = mlp\nhidden = 12\n[train]\nlr = 0.1\nbatch "
      "= "
      "40\nsteps = 2\n[method]\nname = prunefl_published\n",
      "");
  std::vector<float> expected = second;
  double largest = 0;
  for (const std::size_t i : zeros) {
    expected[i] = first[i] + second[i];
    largest = std::max(largest, std::abs(static_cast<double>(second[i])));
  }
  const std::vector<float> after = trained(*two, sent);
  EXPECT_GT(largest, 1e-3);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    // The order of samples in the batch differs: sums of 40 terms, each step below 0.1.
    EXPECT_NEAR(after[i], expected[i], 1e-6) << i;
  }
}

TEST(PrunedMean, KeepsTheValuesOfPrunedWeightsForTheirReturn) {
  Scene s;
  // No time for weights, so that any gradient brings a weight back.
  const auto rule = s.rule("pruned_mean",
                           "adjust_every = 1\nadjust_drop = 0.5\nadjust_constant_s = 1\n"
                           "adjust_weight_s = 1e-9\nweighting = uniform\n");
  std::vector<std::int64_t> all(60);
  std::iota(all.begin(), all.end(), 0);
  const auto update = [&](double step) {
    s.before.flat().copy_(s.model.flat());  // what the next update starts from
    Update u = s.update(all, step, 1);
    u.lr = kRate;
    return u;
  };
  // Without a gradient the smaller half of each matrix leaves, 240 and 1200 weights; a little less
  // than half, because the half-life has begun.
  const at::Tensor begin = s.model.flat().clone();
  std::vector<Update> none{update(0)};
  rule->merge(s.experiment, s.model, none);
  const at::Tensor left = s.model.flat().clone();
  EXPECT_EQ((left == 0).sum().item<std::int64_t>() - (begin == 0).sum().item<std::int64_t>(),
            119 + 599);
  EXPECT_TRUE(at::equal(at::where(left == 0, left, begin), left));
  // All weights get a gradient, and return: pruned ones with their old values, kept ones moved.
  std::vector<Update> some{update(0.25)};
  rule->merge(s.experiment, s.model, some);
  const at::Tensor back = s.model.flat();
  const at::Tensor expected = at::where(left == 0, begin, left + 0.25);
  EXPECT_LT((back - expected).abs().max().item<double>(), 1e-6);
}

}  // namespace
}  // namespace espalier::rounds
