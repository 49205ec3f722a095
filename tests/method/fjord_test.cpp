// Ordered dropout: the networks that a batch trains, and their costs.

#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"
#include "espalier/train/penalty.h"
#include "fixture.h"

namespace espalier::rounds {
namespace {

std::unique_ptr<Setting> make(const std::string& more) {
  return make_setting(
      "[data]\nsynthetic_samples = 230\n[method]\nname = fjord\n"
      "[model]\nname = cnn\nchannels = 10, 20\nfeatures = 40\n",
      more);
}

TEST(OrderedDropout, PeakStaysWithinItsBound) {
  for (const std::string batch : {"8", "64"}) {
    const auto s = make("[train]\nmomentum = 0.9\nbatch = " + batch + "\n");
    const Experiment& e = s->experiment;
    for (const double width : {1.0, 0.6, 0.4}) {
      const Submodel submodel = window_submodel(*e.model.layout, width, 0);
      const auto bound =
          task_cost(e, *s->rules.objective({s->config, s->experiment}), submodel, e.batch_of(0));
      const auto peak = train(*s, submodel).result.peak_bytes;
      EXPECT_LE(peak, bound.peak_bytes) << batch << " " << width;
      EXPECT_LE(static_cast<double>(bound.peak_bytes), 1.25 * static_cast<double>(peak))
          << batch << " " << width;
    }
  }
}

TEST(OrderedDropout, PassesThatAreChargedAreThoseThatAreMade) {
  const auto s = make("[train]\nepochs = 3\nbatch = 20\n");  // batches of 20 and of 10
  const Experiment& e = s->experiment;
  ClientTask task;
  task.submodel = window_submodel(*e.model.layout, 0.6, 0);
  const Workload work = e.workload_of(0);
  std::int64_t passes = 0, samples = 0, whole = 0;
  for (const auto& item :
       s->rules.objective({s->config, s->experiment})->passes(e, task, task.submodel, work)) {
    if (item.submodel == task.submodel) {
      whole += item.passes.count;
      continue;
    }
    EXPECT_TRUE(item.submodel.inside(task.submodel));
    passes += item.passes.count;
    samples += item.passes.count * item.passes.size;
  }
  // Of three widths as likely as each other two are narrower than the submodel.
  EXPECT_EQ(whole, work.steps);
  EXPECT_GT(passes, work.steps / 3);
  EXPECT_LT(passes, work.steps);
  EXPECT_GE(samples, 20 * passes - 10 * 3);  // at most three of them are the short ones
  task.submodel = window_submodel(*e.model.layout, 0.2, 0);
  EXPECT_EQ(
      s->rules.objective({s->config, s->experiment})->passes(e, task, task.submodel, work).size(),
      2U);

  // Without distillation each batch has one pass, of the same widths as with it.
  const auto alone =
      make("[train]\nepochs = 3\nbatch = 20\n[method]\nordered_distillation = false\n");
  task.submodel = window_submodel(*e.model.layout, 0.6, 0);
  std::int64_t narrow = 0, all = 0, seen = 0;
  for (const auto& item : alone->rules.objective({alone->config, alone->experiment})
                              ->passes(e, task, task.submodel, work)) {
    narrow += item.submodel == task.submodel ? 0 : item.passes.count;
    all += item.passes.count;
    seen += item.passes.count * item.passes.size;
  }
  EXPECT_EQ(narrow, passes);
  EXPECT_EQ(all, work.steps);
  EXPECT_EQ(seen, 3 * 230);
}

TEST(OrderedDropout, WithoutDistillationABatchTrainsTheNarrowNetworkAsIfItWereAlone) {
  const std::string one_step = "[train]\nsteps = 1\nlr = 0.1\nbatch = 32\n";
  // Five widths that keep the same units, so that one of these is drawn, unless the sixth is.
  const auto s = make(one_step +
                      "[method]\nordered_widths = 0.4, 0.399, 0.395, 0.39, 0.38, 1\n"
                      "ordered_distillation = false\n");
  const auto plain = make(one_step + "[method]\nobjective = cross_entropy\n");
  const Layout& layout = *s->experiment.model.layout;
  const Submodel full = Submodel::full(layout), small = window_submodel(layout, 0.4, 0);
  const TrainedTask within = train(*s, full);
  const TrainedTask alone = train(*plain, small);
  // The result of training the narrow network alone, scattered into the whole.
  std::vector<float> expected = within.sent;
  const BufferLayout whole(s->experiment.model.layout, full, Packing::dense);
  const BufferLayout part(s->experiment.model.layout, small, Packing::dense);
  Plan(part, whole, nullptr, kTrained).copy(alone.values.data(), expected.data());
  std::size_t moved = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(within.values[i], expected[i], 1e-6) << i;
    moved += within.values[i] != within.sent[i] ? 1 : 0;
  }
  EXPECT_GT(moved, alone.values.size() / 2);
  EXPECT_LE(moved, alone.values.size());
}

TEST(OrderedDropout, PeakWithoutDistillationStaysWithinItsBound) {
  const auto s = make(
      "[train]\nepochs = 3\nmomentum = 0.9\nbatch = 16\n[method]\nordered_distillation = "
      "false\n");
  const Experiment& e = s->experiment;
  for (const double width : {1.0, 0.6, 0.4}) {
    const Submodel submodel = window_submodel(*e.model.layout, width, 0);
    const auto bound =
        task_cost(e, *s->rules.objective({s->config, s->experiment}), submodel, e.batch_of(0));
    const auto peak = train(*s, submodel).result.peak_bytes;
    EXPECT_LE(peak, bound.peak_bytes) << width;
    EXPECT_LE(static_cast<double>(bound.peak_bytes), 1.25 * static_cast<double>(peak)) << width;
  }
}

TEST(OrderedDropout, PenaltiesActOnTheWholeSubmodelInEveryBatch) {
  // Almost always a width of 0.2 is drawn.
  const std::string text =
      "[train]\nsteps = 1\nlr = 0.1\nbatch = 32\n"
      "[method]\nordered_widths = 0.2, 0.21, 0.22, 0.23, 1\nordered_distillation = ";
  for (const std::string distils : {"true\n", "false\n"}) {
    const auto plain = make(text + distils);
    const auto sparse = make(text + distils + "[train]\ngroup_lasso = 0.02\n");
    const Experiment& e = sparse->experiment;
    const Submodel submodel = window_submodel(*e.model.layout, 0.6, 0);
    const TrainedTask without = train(*plain, submodel), with = train(*sparse, submodel);
    const BufferLayout dense(e.model.layout, submodel, Packing::dense);
    std::vector<float> start = with.sent;
    const auto size = std::ssize(start);
    at::Tensor expected = at::zeros({size});
    Penalty(e.train, e.model, dense)
        .add_gradient(at::from_blob(start.data(), {size}, at::kFloat), expected);
    std::int64_t moved = 0;
    for (std::int64_t i = 0; i < size; ++i) {
      const auto at = static_cast<std::size_t>(i);
      EXPECT_NEAR(with.values[at] - without.values[at], -0.1F * expected.data_ptr<float>()[i],
                  1e-6);
      moved += with.values[at] != without.values[at] ? 1 : 0;
    }
    EXPECT_GT(moved, size * 9 / 10);
  }
}

TEST(OrderedDropout, ChangesWhatIsTrainedAndOnlyThere) {
  const std::string one_step = "[train]\nsteps = 1\nlr = 0.1\nbatch = 32\n";
  const auto whole = make(one_step + "[method]\nordered_widths = 1\n");
  const Submodel full = Submodel::full(*whole->experiment.model.layout);
  const auto plain = train(*whole, full).values;
  const auto narrow = make(one_step + "[method]\nordered_widths = 0.2, 0.21, 0.22, 0.23, 1\n");
  const auto both = train(*narrow, full).values;
  ASSERT_EQ(plain.size(), both.size());
  // Units beyond every narrow width move exactly as without it.
  const Experiment& e = whole->experiment;
  const BufferLayout dense(e.model.layout, full, Packing::dense);
  std::size_t equal = 0, changed = 0;
  for (std::size_t entry = 0; entry < e.model.layout->entries.size(); ++entry) {
    const BufferLayout::Place& place = dense.place(static_cast<int>(entry));
    const bool has_units = e.model.layout->entries[entry].name.starts_with("conv1.bias");
    for (std::int64_t i = 0; i < place.count; ++i) {
      const auto at = static_cast<std::size_t>(place.offset + i);
      if (has_units && i >= 3) {
        EXPECT_EQ(plain[at], both[at]);
        ++equal;
      }
      changed += plain[at] != both[at] ? 1 : 0;
    }
  }
  EXPECT_EQ(equal, 7U);
  EXPECT_GT(changed, 20U);
}

}  // namespace
}  // namespace espalier::rounds
