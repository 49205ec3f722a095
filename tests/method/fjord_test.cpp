// Ordered dropout: what a batch trains, and what it costs.

#include "espalier/method/widths.h"
#include "fixture.h"

namespace espalier {
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
    for (const double share : {1.0, 0.6, 0.4}) {
      const Submodel submodel = rolling_submodel(*e.model.layout, share, 0);
      const auto bound = task_cost(e, *s->rules.objective(s->config), submodel, e.batch_of(0));
      const auto peak = train(*s, submodel).result.peak_bytes;
      EXPECT_LE(peak, bound.peak_bytes) << batch << " " << share;
      EXPECT_LE(static_cast<double>(bound.peak_bytes), 1.25 * static_cast<double>(peak))
          << batch << " " << share;
    }
  }
}

TEST(OrderedDropout, PassesThatAreChargedAreThoseThatAreMade) {
  const auto s = make("[train]\nepochs = 3\nbatch = 20\n");  // batches of 20 and of 10
  const Experiment& e = s->experiment;
  ClientTask task;
  task.submodel = rolling_submodel(*e.model.layout, 0.6, 0);
  const auto extra = s->rules.objective(s->config)->extra_passes(e, task, task.submodel);
  std::int64_t passes = 0, samples = 0;
  for (const ExtraPasses& item : extra) {
    EXPECT_TRUE(item.submodel.inside(task.submodel));
    EXPECT_NE(item.submodel, task.submodel);
    passes += item.passes.count;
    samples += item.passes.count * item.passes.size;
  }
  // Of three widths as likely as each other two are narrower than the submodel.
  const Workload work = e.workload_of(0);
  EXPECT_GT(passes, work.steps / 3);
  EXPECT_LT(passes, work.steps);
  EXPECT_GE(samples, 20 * passes - 10 * 3);  // at most three of them are the short ones
  task.submodel = rolling_submodel(*e.model.layout, 0.2, 0);
  EXPECT_TRUE(s->rules.objective(s->config)->extra_passes(e, task, task.submodel).empty());
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
  const Geometry dense(e.model.layout, full, Packing::dense);
  std::size_t equal = 0, changed = 0;
  for (std::size_t entry = 0; entry < e.model.layout->entries.size(); ++entry) {
    const Geometry::Place& place = dense.place(static_cast<int>(entry));
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
}  // namespace espalier
