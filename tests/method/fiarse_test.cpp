// FIARSE's mask and its gradient, against a separate computation with autograd.

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "espalier/protocol/rounds/merge.h"
#include "fixture.h"
#include "merge_scene.h"

namespace espalier::rounds {
namespace {

const char* const kInput =
    "[data]\nsynthetic_samples = 40\n[model]\nname = mlp\nhidden = 12\nnorm = "
    "layer\n[method]\nname "
    "= fiarse\nwidths = 0.3\n[train]\nlr = 0.1\nbatch = 40\nsteps = 1\n";

/// By dense position: whether the entry is of a layer with a matrix.
std::vector<bool> ranked(const Setting& s) {
  const auto dense =
      s.experiment.plans->buffer_layout(Submodel::full(*s.experiment.model.layout), Packing::dense);
  std::vector<bool> flags(static_cast<std::size_t>(dense->size()), false);
  for (std::size_t i = 0; i < dense->layout().entries.size(); ++i) {
    const auto& place = dense->place(static_cast<int>(i));
    const bool is_norm = dense->layout().entries[i].name.starts_with("norm");
    for (std::int64_t j = 0; j < place.count; ++j) {
      flags[static_cast<std::size_t>(place.offset + j)] = !is_norm;
    }
  }
  return flags;
}

float threshold_of(const std::vector<float>& values, const std::vector<bool>& flags, double share) {
  std::vector<float> sizes;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (flags[i]) sizes.push_back(std::abs(values[i]));
  }
  std::ranges::sort(sizes, std::greater<>());
  return sizes[static_cast<std::size_t>(std::ceil(share * static_cast<double>(sizes.size())) - 1)];
}

/// One step of gradient descent on the masked network, with the derivative of the mask by autograd:
/// a factor whose value is m and whose derivative by |x| is 2 t / (|x| + t)^2 m.
std::vector<float> expected_step(const Setting& s, const std::vector<float>& sent, float t,
                                 bool differentiates) {
  const Experiment& e = s.experiment;
  const Layout& layout = *e.model.layout;
  const auto dense = e.plans->buffer_layout(Submodel::full(layout), Packing::dense);
  const auto samples = e.partition->samples(0);
  const at::Tensor x = e.data.train->inputs(samples).flatten(1);
  const at::Tensor y = e.data.train->labels(samples);
  std::vector<at::Tensor> leaves, used;
  for (std::size_t i = 0; i < layout.entries.size(); ++i) {
    const auto& place = dense->place(static_cast<int>(i));
    at::Tensor leaf = at::empty(place.shape);
    std::copy_n(sent.data() + place.offset, place.count, leaf.data_ptr<float>());
    leaf.set_requires_grad(true);
    leaves.push_back(leaf);
    if (layout.entries[i].name.starts_with("norm")) {
      used.push_back(leaf);
      continue;
    }
    const at::Tensor size = leaf.abs();
    const at::Tensor inside = (size.detach() >= t).to(at::kFloat);
    const at::Tensor slope = 2 * t / (size.detach() + t).square() * inside;
    const at::Tensor mask = inside + slope * (size - size.detach());
    used.push_back(leaf * (differentiates ? mask : inside));
  }
  // fc1, norm1, fc2, each with weight and bias.
  at::Tensor hidden = at::linear(x, used[0], used[1]);
  hidden = at::relu(at::group_norm(hidden, 1, used[2], used[3], 1e-5, false));
  at::cross_entropy_loss(at::linear(hidden, used[4], used[5]), y).backward();
  std::vector<float> next = sent;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const auto& place = dense->place(static_cast<int>(i));
    const float* const gradient = leaves[i].grad().const_data_ptr<float>();
    for (std::int64_t j = 0; j < place.count; ++j) {
      next[static_cast<std::size_t>(place.offset + j)] -= 0.1F * gradient[j];
    }
  }
  return next;
}

TEST(ImportantWeights, AStepIsThatOfTheMaskedNetwork) {
  for (const bool differentiates : {true, false}) {
    const auto s =
        make_setting(kInput, differentiates ? "" : "[method]\nimportance_gradient = false\n");
    const auto trained = train(*s, Submodel::full(*s->experiment.model.layout));
    const std::vector<bool> flags = ranked(*s);
    const float t = threshold_of(trained.sent, flags, 0.3);
    const std::vector<float> expected = expected_step(*s, trained.sent, t, differentiates);
    std::int64_t changed = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      // Two computations of one sum of 40 x 256 products: 2^-24 x sqrt(10240) of values below 1.
      EXPECT_NEAR(trained.values[i], expected[i], 6e-6) << i;
      const bool outside = flags[i] && std::abs(trained.sent[i]) < t;
      if (outside) {
        EXPECT_EQ(trained.values[i], trained.sent[i]) << i;
      }
      changed += trained.values[i] != trained.sent[i];
    }
    EXPECT_GT(changed, std::ssize(expected) / 5);
  }
}

TEST(ImportantWeights, WeightsOutsideTheMaskKeepTheirValues) {
  // Whatever the optimiser does: weight decay, momentum, and four steps.
  const auto s =
      make_setting(kInput, "[train]\nsteps = 4\nmomentum = 0.9\nweight_decay = 0.1\nbatch = 10\n");
  const auto trained = train(*s, Submodel::full(*s->experiment.model.layout));
  const std::vector<bool> flags = ranked(*s);
  const float t = threshold_of(trained.sent, flags, 0.3);
  std::int64_t outside = 0, inside = 0;
  for (std::size_t i = 0; i < flags.size(); ++i) {
    if (flags[i] && std::abs(trained.sent[i]) < t) {
      ++outside;
      EXPECT_EQ(trained.values[i], trained.sent[i]) << i;
    } else {
      inside += trained.values[i] != trained.sent[i];
    }
  }
  const std::int64_t all = std::ranges::count(flags, true);
  EXPECT_EQ(outside, all - static_cast<std::int64_t>(std::ceil(0.3 * static_cast<double>(all))));
  EXPECT_GT(inside, (all - outside) / 2);
}

TEST(ImportantWeights, KeepTheShareOfEachLayerIfAsked) {
  const auto s = make_setting(kInput, "[method]\nimportance_scope = layer\n");
  const auto trained = train(*s, Submodel::full(*s->experiment.model.layout));
  const auto dense = s->experiment.plans->buffer_layout(Submodel::full(*s->experiment.model.layout),
                                                        Packing::dense);
  for (const auto& [weight, bias] : {std::pair{0, 1}, std::pair{4, 5}}) {
    std::vector<float> sizes;
    std::vector<bool> changed;
    for (const int entry : {weight, bias}) {
      const auto& place = dense->place(entry);
      for (std::int64_t j = place.offset; j < place.offset + place.count; ++j) {
        sizes.push_back(std::abs(trained.sent[static_cast<std::size_t>(j)]));
        changed.push_back(trained.sent[static_cast<std::size_t>(j)] !=
                          trained.values[static_cast<std::size_t>(j)]);
      }
    }
    const float t = threshold_of(sizes, std::vector<bool>(sizes.size(), true), 0.3);
    std::int64_t inside = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      if (sizes[i] < t) {
        EXPECT_FALSE(changed[i]) << i;
      }
      inside += changed[i];
    }
    EXPECT_GT(inside, static_cast<std::int64_t>(0.2 * static_cast<double>(sizes.size())));
  }
}

TEST(Unstructured, IsChargedInFullAndOneMoreBuffer) {
  for (const auto& [method, widths] : {std::pair{"fiarse", "1"}, std::pair{"fiarse", "0.01"},
                                       std::pair{"prunefl_published", "1"}}) {
    const auto s =
        make_setting(formatted("[data]\nsynthetic_samples = 64\n[model]\nname = mlp\nhidden = 300, "
                               "100\n[train]\nbatch = 16\n[method]\nname = {}\nwidths = {}\n",
                               method, widths),
                     "");
    const Submodel full = Submodel::full(*s->experiment.model.layout);
    const auto objective = s->rules.objective({s->config, s->experiment});
    const std::int64_t bound = task_cost(s->experiment, *objective, full, 16).peak_bytes;
    const std::int64_t whole = task_cost(s->experiment, LocalObjective(), full, 16).peak_bytes;
    const std::int64_t measured = train(*s, full).result.peak_bytes;
    EXPECT_LE(measured, bound) << method;
    EXPECT_LE(bound, 1.25 * static_cast<double>(measured)) << method;
    EXPECT_EQ(bound - whole, weight_bytes(s->experiment, full)) << method;
  }
}

TEST(ChangedMean, CountsOnlyUpdatesThatChangedAValue) {
  Scene s;
  const auto rule = s.rule("changed_mean", "weighting = uniform\n");
  std::vector<std::int64_t> all(60);
  std::iota(all.begin(), all.end(), 0);
  std::vector<Update> updates{s.update(all, 0.5, 1), s.update(all, 0.25, 1), s.update(all, 0, 1)};
  // The second one leaves the first value as it was.
  auto changed = std::make_shared<Bytes>(*updates[1].values);
  std::memcpy(changed->data(), updates[1].sent->data(), sizeof(float));
  updates[1].values = changed;
  rule->merge(s.experiment, s.model, updates);
  // Each trained value is rounded once to float, the mean once more, all below 8.
  EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + 0.5, 1e-6);
  EXPECT_NEAR(s.value(0, 1), s.first(0, 1) + 0.375, 1e-6);
  EXPECT_NEAR(s.value(1, 7), s.first(1, 7) + 0.375, 1e-6);
  // If all change every value, it is the mean over holders, bit for bit.
  const auto average = s.rule("average", "weighting = uniform\n");
  std::vector<Update> three{s.update(all, 0.5, 1), s.update(all, 0.3, 1), s.update(all, -0.7, 1)};
  s.reset();
  rule->merge(s.experiment, s.model, three);
  const at::Tensor changed_mean = s.model.flat().clone();
  s.reset();
  average->merge(s.experiment, s.model, three);
  EXPECT_TRUE(at::equal(changed_mean, s.model.flat()));
  // Nobody changed a value: it stays.
  s.reset();
  std::vector<Update> none{s.update(all, 0, 1)};
  rule->merge(s.experiment, s.model, none);
  EXPECT_EQ(s.value(1, 7), s.first(1, 7));
}

}  // namespace
}  // namespace espalier::rounds
