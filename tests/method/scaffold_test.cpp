// SCAFFOLD: the client's corrected steps and its control variate, and the server's, against the
// published formulas in double precision. tests/cli/scaffold_test.py compares whole runs.

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/payloads.h"
#include "espalier/protocol/rounds/task_costs.h"
#include "fixture.h"
#include "merge_scene.h"

namespace espalier::rounds {
namespace {

constexpr double kRate = 0.1;

/// One step a task, with all samples, so that each task from the same weights has the same
/// gradient.
std::unique_ptr<Setting> one_step(const std::string& more) {
  return make_setting(
      "[data]\nsynthetic_samples = 60\n[model]\nname = cnn\nchannels = 10, 20\nfeatures = 40\n"
      "[train]\nsteps = 1\nbatch = 60\nlr = 0.1\n[method]\nname = scaffold\n",
      more);
}

/// A control variate of the server for each weight of the submodel.
float control(std::size_t i) { return static_cast<float>(0.01 * std::sin(static_cast<double>(i))); }

/// A task with the server's control variates behind its weights.
TrainedTask train_with_control(const Setting& s, const Submodel& submodel, Bytes state = {}) {
  const Experiment& e = s.experiment;
  Parameters model(e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned));
  initialise(model, e.seed);
  const auto layout = e.plans->buffer_layout(submodel, Packing::shared);
  const auto payload = pack_payload(*e.plans, model, *layout);
  const std::size_t weights = floats_of(*payload).size();
  payload->resize(2 * payload->size());
  for (std::size_t i = 0; i < weights; ++i) floats_of(*payload)[weights + i] = control(i);
  TrainedTask task = train_from(s, submodel, payload, std::move(state));
  task.sent.resize(weights);
  return task;
}

TEST(ControlledSteps, AreCorrectedByBothControlVariates) {
  const auto plain = one_step("[method]\nobjective = cross_entropy\nmerge = average\n");
  const auto scaffold = one_step("");
  const Submodel full = Submodel::full(*plain->experiment.model.layout);
  const TrainedTask without = train(*plain, full);
  const TrainedTask first = train_with_control(*scaffold, full);
  const TrainedTask second = train_with_control(*scaffold, full, first.result.state);
  double largest = 0;
  for (std::size_t i = 0; i < without.values.size(); ++i) {
    const double step = without.values[i] - without.sent[i];  // -rate times the gradient
    largest = std::max(largest, std::abs(step));
    EXPECT_NEAR(first.values[i] - first.sent[i], step - kRate * control(i), 1e-7);
    // c_i = -c + (x - y) / rate is the gradient, which is subtracted in the second task.
    EXPECT_NEAR(second.values[i] - second.sent[i], -kRate * control(i), 1e-7);
  }
  EXPECT_GT(largest, 1e-4);
}

TEST(ControlledSteps, KeepTheControlVariateOfUnitsThatASubmodelLacks) {
  const auto plain = one_step("[method]\nobjective = cross_entropy\nmerge = average\n");
  const auto scaffold = one_step("");
  const Layout& layout = *plain->experiment.model.layout;
  const Submodel full = Submodel::full(layout), small = window_submodel(layout, 0.6, 0);
  const TrainedTask whole = train(*plain, full);
  const TrainedTask before = train_with_control(*scaffold, full);
  const TrainedTask between = train_with_control(*scaffold, small, before.result.state);
  const TrainedTask after = train_with_control(*scaffold, full, between.result.state);
  // Where the small submodel was trained, c_i is its gradient; elsewhere it is still that of the
  // whole model, so that nothing but c is left of the third task's step.
  const BufferLayout dense(plain->experiment.model.layout, full, Packing::dense);
  const BufferLayout part(plain->experiment.model.layout, small, Packing::dense);
  std::vector<bool> in_small(whole.values.size(), false);
  Plan(part, dense, nullptr, kTrained).for_each_value([&](std::int64_t, std::int64_t to) {
    in_small[static_cast<std::size_t>(to)] = true;
  });
  std::size_t outside = 0;
  for (std::size_t i = 0; i < in_small.size(); ++i) {
    if (in_small[i]) continue;
    ++outside;
    EXPECT_NEAR(after.values[i] - after.sent[i], -kRate * control(i), 1e-7);
  }
  EXPECT_GT(outside, 100);
}

TEST(ControlledSteps, PeakStaysWithinItsBound) {
  const auto s = one_step("");
  const Experiment& e = s->experiment;
  ServerRules rules =
      build_rules(rounds_catalogue(), rule_names(rounds_catalogue(), s->config), s->config, e);
  for (const double width : {1.0, 0.5}) {
    const Submodel submodel = window_submodel(*e.model.layout, width, 0);
    const auto bound = assignment_peaks(e, rules.tasks, {submodel, width}, 0).largest();
    const auto peak = train_with_control(*s, submodel).result.peak_bytes;
    EXPECT_LE(peak, bound) << width;
    EXPECT_LE(static_cast<double>(bound), 1.25 * static_cast<double>(peak)) << width;
  }
}

TEST(ControlledSteps, AreRefusedWithoutTheirMergeRuleOrPlainSgd) {
  const auto refused = [](const std::string& more) {
    const auto s = one_step(more);
    build_rules(rounds_catalogue(), rule_names(rounds_catalogue(), s->config), s->config,
                s->experiment);
  };
  EXPECT_NO_THROW(refused(""));
  EXPECT_THROW(refused("[method]\nmerge = average\n"), InputError);
  EXPECT_THROW(refused("[train]\nmomentum = 0.9\n"), InputError);
  EXPECT_THROW(refused("[train]\noptimizer = adam\n"), InputError);
}

TEST(Payloads, CarryCompanionValuesAndAreNarrowedWithThem) {
  Scene s;
  PlanCache& plans = *s.experiment.plans;
  Parameters companion(s.before.buffer_layout_ptr());
  plans.plan(companion.buffer_layout(), companion.buffer_layout())
      ->for_each_value(
          [&](std::int64_t at, std::int64_t) { companion.data()[at] = -s.before.data()[at]; });
  Submodel wide = Submodel::full(*s.layout), narrow = wide;
  wide.keep(s.hidden, {1, 4, 7, 30});
  narrow.keep(s.hidden, {4, 30});
  const auto from = plans.buffer_layout(wide, Packing::shared);
  const auto to = plans.buffer_layout(narrow, Packing::shared);
  Payloads payloads(plans);
  const SharedBytes sent = payloads.payload(s.before, &companion, wide, *from);
  const auto [weights, beside] = parted(narrowed(plans, *sent, *from, *to), *to);
  // As if the smaller submodel had been sent.
  EXPECT_EQ(*weights, *pack_payload(plans, s.before, *to));
  EXPECT_EQ(*beside, *pack_payload(plans, companion, *to));
  EXPECT_EQ(parted(weights, *to), std::pair(weights, SharedBytes()));
}

TEST(ControlledAverage, MovesTheServersControlVariateByTheClientsChanges) {
  Scene s;
  auto rule = s.rule("control_variates", "weighting = uniform\n");
  constexpr double kLr = 0.5;
  // Of four clients two hold unit 0, one unit 1, none unit 2. c_i by client, and c, per unit.
  double c[3] = {0, 0, 0};
  const double steps[3][2] = {{0.4, 0.8}, {-0.2, 0.1}, {0.3, -0.7}};
  for (const auto& [a, b] : steps) {
    std::vector<Update> updates{s.update({0, 1}, a, 1), s.update({0}, b, 1)};
    const std::int64_t batches[2] = {4, 7};
    for (std::size_t i = 0; i < 2; ++i) {
      Update& u = updates[i];
      u.lr = kLr;
      u.steps = batches[i];
      Payloads payloads(*s.experiment.plans);
      u.sent = payloads.payload(s.before, rule->companion(), u.buffer_layout->submodel(),
                                *u.buffer_layout);
    }
    rule->merge(s.experiment, s.model, updates);
    // c_i+ - c_i = -c + (x - y_i) / (K lr)
    const double from_a = -a / (4 * kLr), from_b = -b / (7 * kLr);
    c[0] += ((from_a - c[0]) + (from_b - c[0])) / 4;
    c[1] += (from_a - c[1]) / 4;
    for (std::int64_t unit = 0; unit < 3; ++unit) {
      for (std::int64_t i = 0; i < 4; ++i) {
        const double known = (*rule->companion())[0].flatten()[4 * unit + i].item<double>();
        // x and y are floats below 8; their difference is divided by at least 2.
        EXPECT_NEAR(known, c[unit], 3 * 0x1p-21) << unit;
      }
    }
    EXPECT_NEAR(s.value(0, 0), s.first(0, 0) + (a + b) / 2, 0x1p-20);
    ByteArchive saved;
    rule->archive(saved);
    const Bytes bytes = saved.take();
    auto restored = s.rule("control_variates", "weighting = uniform\n");
    ByteArchive archive(bytes);
    restored->archive(archive);
    rule = std::move(restored);
  }
  EXPECT_GT(std::abs(c[0] - c[1]), 0.01);
}

}  // namespace
}  // namespace espalier::rounds
