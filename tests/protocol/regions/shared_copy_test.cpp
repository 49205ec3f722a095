// Merges into the shared copy by closed forms: means, radial means, and bases of the regions' own.

#include "espalier/protocol/regions/shared_copy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "scene.h"

namespace espalier::regions {
namespace {

/// A shared copy of four layers in one fragment, and the merges of given values.
class Copy {
 public:
  explicit Copy(const std::string& more)
      : scene_(
            "[data]\nname = synthetic\nsynthetic_samples = 24\nsynthetic_shape = 1, 3, 3\n"
            "[clients]\ncount = 4\n[model]\nname = mlp\nhidden = 6, 5, 4\n",
            more),
        settings_(region_settings(scene_.config, scene_.experiment)),
        shared_(scene_.experiment, settings_, merge_settings(scene_.config), first_model()) {}

  const Fragment& fragment() const { return settings_.fragments.front(); }
  std::vector<float> values() const { return floats(shared_.values()); }
  /// What the regions get if they send `sent`.
  std::vector<float> merge(const std::vector<std::vector<float>>& sent,
                           std::vector<double> weights = {}) {
    weights.resize(sent.size(), weights.empty() ? 1.0 : 0.0);
    std::vector<Bytes> encoded;
    for (const auto& values : sent) {
      encoded.push_back(encode(settings_.codec, fragment().tensors, values));
    }
    std::vector<Contribution> contributions;
    for (std::size_t i = 0; i < sent.size(); ++i)
      contributions.push_back({&encoded[i], weights[i]});
    return floats(shared_.merge(0, 1, contributions).values);
  }
  static std::vector<float> floats(const Bytes& bytes) {
    const auto span = floats_of(bytes);
    return {span.begin(), span.end()};
  }

 private:
  Parameters first_model() {
    const Submodel full = Submodel::full(*scene_.experiment.model.layout);
    Parameters model(scene_.experiment.plans->buffer_layout(full, Packing::aligned));
    initialise(model, 3);
    return model;
  }

  Scene scene_;
  RegionSettings settings_;
  SharedCopy shared_;
};

constexpr const char* kRadial = "[regions]\nmerge = radial\nouter = sgd\nouter_lr = 1\n";

std::vector<float> noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

double norm(const std::vector<double>& values, const Range& range) {
  double square = 0;
  for (auto i = range.begin; i < range.end; ++i) {
    square += values[static_cast<std::size_t>(i)] * values[static_cast<std::size_t>(i)];
  }
  return std::sqrt(square);
}

/// first - values.
std::vector<double> difference(const std::vector<float>& first, const std::vector<float>& values) {
  std::vector<double> d(first.size());
  for (std::size_t i = 0; i < d.size(); ++i) d[i] = static_cast<double>(first[i]) - values[i];
  return d;
}

bool is_inner(const Fragment& fragment, const Range& tensor) {
  return std::ranges::find(fragment.inner_tensors, tensor) != fragment.inner_tensors.end();
}

TEST(SharedCopy, RadialMeanOfEqualValuesIsThatValue) {
  Copy copy(kRadial);
  const std::vector<float> sent = noise(copy.values().size(), 1);
  const auto merged = copy.merge({sent, sent, sent});
  for (std::size_t i = 0; i < sent.size(); ++i) ASSERT_NEAR(merged[i], sent[i], 1e-6);
}

TEST(SharedCopy, RadialMeanOfOrthogonalDifferencesKeepsTheirLength) {
  Copy copy(kRadial);
  const std::vector<float> first = copy.values();
  // Region m moves the m-th of every four values of each tensor, by the same length.
  std::vector<std::vector<float>> sent(4, first);
  for (const Range& tensor : copy.fragment().tensors) {
    const auto size = tensor.end - tensor.begin;
    for (std::int64_t m = 0; m < 4; ++m) {
      std::int64_t moved = 0;
      for (auto k = m; k < size; k += 4) ++moved;
      for (auto k = m; k < size; k += 4) {
        sent[static_cast<std::size_t>(m)][static_cast<std::size_t>(tensor.begin + k)] -=
            static_cast<float>(1 / std::sqrt(static_cast<double>(moved)));
      }
    }
  }
  const auto moved = difference(first, copy.merge(sent));
  int inner = 0;
  for (const Range& tensor : copy.fragment().tensors) {
    if (tensor.end - tensor.begin < 4) continue;
    const bool radial = is_inner(copy.fragment(), tensor);
    inner += radial ? 1 : 0;
    EXPECT_NEAR(norm(moved, tensor), radial ? 1 : 0.5, 1e-6);  // the mean shrinks by sqrt(4)
  }
  EXPECT_EQ(inner, 4);  // weights and biases of two layers
}

TEST(SharedCopy, RadialMeanIsTheFormula) {
  Copy copy(kRadial);
  const std::vector<float> first = copy.values();
  const std::vector<std::vector<float>> sent = {noise(first.size(), 1), noise(first.size(), 2),
                                                noise(first.size(), 3)};
  const std::vector<double> weights = {1, 2.5, 0.75};
  const auto moved = difference(first, copy.merge(sent, weights));
  for (const Range& tensor : copy.fragment().tensors) {
    std::vector<double> direction(first.size(), 0), mean(first.size(), 0);
    double length = 0, all = 0;
    for (std::size_t m = 0; m < 3; ++m) {
      const auto d = difference(first, sent[m]);
      const double n = norm(d, tensor);
      all += weights[m];
      length += weights[m] * n;
      for (std::size_t i = 0; i < d.size(); ++i) {
        direction[i] += weights[m] * d[i] / n;
        mean[i] += weights[m] * d[i];
      }
    }
    const double scale = length / all / norm(direction, tensor);
    for (auto k = tensor.begin; k < tensor.end; ++k) {
      const auto i = static_cast<std::size_t>(k);
      const double expected =
          is_inner(copy.fragment(), tensor) ? scale * direction[i] : mean[i] / all;
      ASSERT_NEAR(moved[i], expected, 1e-6);
    }
  }
}

TEST(SharedCopy, ARegionOfWeightZeroChangesNothing) {
  for (const char* more : {kRadial, "[regions]\nouter = sgd\nouter_lr = 1\n"}) {
    Copy with(more), without(more);
    const std::size_t size = with.values().size();
    const auto a = noise(size, 1), b = noise(size, 2), c = noise(size, 3);
    EXPECT_EQ(with.merge({a, b, c}, {0, 2, 3}), without.merge({b, c}, {2, 3}));
  }
}

TEST(SharedCopy, DirectionsThatCancelFallBackToTheMean) {
  Copy copy(kRadial);
  const std::vector<float> first = copy.values();
  std::vector<std::vector<float>> sent(2, first);
  for (std::size_t i = 0; i < first.size(); ++i) {
    sent[0][i] = first[i] - 0.25F;
    sent[1][i] = first[i] + 0.25F;
  }
  const auto merged = copy.merge(sent);
  for (std::size_t i = 0; i < first.size(); ++i) ASSERT_NEAR(merged[i], first[i], 1e-6);
  // A region that has not moved adds no direction, but its length of zero.
  const auto moved = difference(merged, copy.merge({merged, sent[0]}));
  for (const Range& tensor : copy.fragment().tensors) {
    EXPECT_NEAR(norm(moved, tensor), 0.125 * std::sqrt(tensor.end - tensor.begin), 1e-6);
  }
}

TEST(SharedCopy, WithBasesOfTheirOwnTheMeanOfTheRegionsIsKept) {
  const double rho = 0.4, mu = 0.9;
  Copy copy("[regions]\nbase = local\nouter_lr = 0.4\nouter_momentum = 0.9\n");
  const std::vector<float> first = copy.values();
  std::vector<double> base(first.begin(), first.end()), momentum(first.size(), 0);
  for (unsigned round = 0; round < 3; ++round) {
    const std::vector<float> a = noise(first.size(), 2 * round),
                             b = noise(first.size(), 2 * round + 1);
    const auto movement = copy.merge({a, b});  // differences of two regions to their own bases
    const std::vector<float> model = copy.values();
    for (std::size_t i = 0; i < first.size(); ++i) {
      const double mean = (static_cast<double>(a[i]) + b[i]) / 2;
      momentum[i] = mu * momentum[i] + mean;
      const double step = rho * (mean + mu * momentum[i]);
      ASSERT_NEAR(movement[i], step, 2e-6);
      ASSERT_NEAR(model[i], base[i] - step, 2e-6);  // the mean of the regions' fresh values
      base[i] -= mean;                              // the mean of what they sent
    }
  }
}

}  // namespace
}  // namespace espalier::regions
