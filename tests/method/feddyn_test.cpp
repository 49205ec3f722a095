// FedDyn: the client's memory in the gradient, and the server's memory in the merge, against the
// published formulas.

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"
#include "fixture.h"
#include "merge_scene.h"

namespace espalier::rounds {
namespace {

constexpr double kRate = 0.1, kAlpha = 0.7;

/// One step a task, with all samples, so that each task has the gradient of the same loss.
std::unique_ptr<Setting> one_step(const std::string& more) {
  return make_setting(
      "[data]\nsynthetic_samples = 60\n[model]\nname = cnn\nchannels = 10, 20\nfeatures = 40\n"
      "[train]\nsteps = 1\nbatch = 60\nlr = 0.1\n[method]\nname = feddyn\ndynamic_alpha = 0.7\n",
      more);
}

TEST(DynamicTerm, RemembersTheDifferencesOfEarlierTasks) {
  const auto plain = one_step("[method]\nobjective = cross_entropy\n");
  const auto dynamic = one_step("");
  const Submodel full = Submodel::full(*plain->experiment.model.layout);
  const TrainedTask without = train(*plain, full);
  const TrainedTask first = train(*dynamic, full);
  const TrainedTask second = train(*dynamic, full, first.result.state);
  const TrainedTask third = train(*dynamic, full, second.result.state);
  double largest = 0;
  for (std::size_t i = 0; i < without.values.size(); ++i) {
    const double step = without.values[i] - without.sent[i];  // -rate times the gradient
    largest = std::max(largest, std::abs(step));
    EXPECT_NEAR(first.values[i] - first.sent[i], step, 1e-7);
    // g_1 = -alpha step_1, and w = w_sent - rate (gradient - g_1).
    const double again = step - kRate * kAlpha * step;
    EXPECT_NEAR(second.values[i] - second.sent[i], again, 1e-7);
    EXPECT_NEAR(third.values[i] - third.sent[i], step - kRate * kAlpha * (step + again), 1e-7);
  }
  EXPECT_GT(largest, 1e-4);
}

TEST(DynamicTerm, MovesWithASmallerSubmodel) {
  const auto plain = one_step("[method]\nobjective = cross_entropy\n");
  const auto dynamic = one_step("");
  const Layout& layout = *plain->experiment.model.layout;
  const Submodel full = Submodel::full(layout), small = window_submodel(layout, 0.6, 0);
  const TrainedTask before = train(*dynamic, full);
  const TrainedTask without = train(*plain, small);
  const TrainedTask with = train(*dynamic, small, before.result.state);
  const BufferLayout whole(plain->experiment.model.layout, full, Packing::dense);
  const BufferLayout part(plain->experiment.model.layout, small, Packing::dense);
  std::vector<float> past(without.values.size()), past_sent(past);
  Plan(whole, part, nullptr, kTrained).copy(before.values.data(), past.data());
  Plan(whole, part, nullptr, kTrained).copy(before.sent.data(), past_sent.data());
  for (std::size_t i = 0; i < past.size(); ++i) {
    const double memory = -kAlpha * (past[i] - past_sent[i]);
    EXPECT_NEAR(with.values[i] - without.values[i], kRate * memory, 1e-7);
  }
}

TEST(DynamicTerm, AlphaFallsWithTheClientsShareOfTheSamples) {
  const std::string clients =
      "[clients]\ncount = 5\n[data]\nsynthetic_samples = 200\npartition = dirichlet\nalpha = 0.5\n"
      "[train]\nbatch = 200\n";
  const auto plain = one_step(clients + "[method]\nobjective = cross_entropy\n");
  const auto dynamic = one_step(clients + "[method]\nalpha_by_samples = true\n");
  const Experiment& e = plain->experiment;
  const Submodel full = Submodel::full(*e.model.layout);
  double sum = 0;
  for (std::int64_t client = 0; client < 5; ++client) {
    sum += static_cast<double>(e.samples_of(client));
  }
  const double alpha = kAlpha * sum / 5 / static_cast<double>(e.samples_of(0));
  ASSERT_GT(std::abs(alpha - kAlpha), 0.05);
  const TrainedTask without = train(*plain, full);
  const TrainedTask first = train(*dynamic, full);
  const TrainedTask second = train(*dynamic, full, first.result.state);
  double largest = 0;
  for (std::size_t i = 0; i < without.values.size(); ++i) {
    const double step = without.values[i] - without.sent[i];
    largest = std::max(largest, std::abs(step));
    EXPECT_NEAR(second.values[i] - second.sent[i], step - kRate * alpha * step, 1e-7);
  }
  EXPECT_GT(kRate * std::abs(alpha - kAlpha) * largest, 1e-5);
}

TEST(DynamicTerm, PeakStaysWithinItsBound) {
  for (const std::string objective : {"dynamic", "mutual_distillation"}) {
    const auto s = one_step("[method]\nobjective = " + objective + "\n");
    const Experiment& e = s->experiment;
    for (const double width : {1.0, 0.5}) {
      const Submodel submodel = window_submodel(*e.model.layout, width, 0);
      const auto bound =
          task_cost(e, *s->rules.objective({s->config, s->experiment}), submodel, e.batch_of(0));
      const auto peak = train(*s, submodel).result.peak_bytes;
      EXPECT_LE(peak, bound.peak_bytes) << objective << width;
      EXPECT_LE(static_cast<double>(bound.peak_bytes), 1.25 * static_cast<double>(peak))
          << objective << width;
    }
  }
}

TEST(DynamicMerge, TakesTheMeanFurtherByAllDifferencesSoFar) {
  Scene s;
  const auto rule = s.rule("dynamic", "dynamic_alpha = 0.5\n");
  // Of four clients two hold unit 0, one unit 1, none unit 2: h / alpha = -sum of steps / 4.
  const auto updates = [&] {
    return std::vector<Update>{s.update({0, 1}, 0.4, 1), s.update({0}, 0.8, 1)};
  };
  std::vector<Update> round = updates();
  rule->merge(s.experiment, s.model, round);
  EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + 0.6 + 1.2 / 4, 1e-6);
  EXPECT_NEAR(s.value(0, 4), s.first(0, 4) + 0.4 + 0.4 / 4, 1e-6);
  EXPECT_EQ(s.value(0, 8), s.first(0, 8));

  // Once more from the same start, by a rule that was saved and restored.
  ByteArchive saved;
  rule->archive(saved);
  const Bytes bytes = saved.take();
  const auto restored = s.rule("dynamic", "dynamic_alpha = 0.5\n");
  ByteArchive archive(bytes);
  restored->archive(archive);
  round = updates();
  restored->merge(s.experiment, s.model, round);
  EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + 0.6 + 2 * 1.2 / 4, 1e-6);
  EXPECT_NEAR(s.value(0, 4), s.first(0, 4) + 0.4 + 2 * 0.4 / 4, 1e-6);
}

TEST(DynamicMerge, RefusesToWorkWithoutItsTerm) {
  Scene s;
  EXPECT_THROW(s.rule("dynamic", "dynamic_alpha = 0\n"), InputError);
}

}  // namespace
}  // namespace espalier::rounds
