// Searches for masks: gates against submodels without the units, frozen weights, numbers of kept
// units, and the memory bound of the stage.

#include <c10/core/GradMode.h>

#include <cstring>
#include <set>

#include "fixture.h"
#include "purpose.h"

namespace espalier::rounds {
namespace {

const std::string kVit =
    "[model]\nname = vit\ndepth = 4\nembed = 32\nheads = 4\nmlp = 128\npatch = 4\nexits = 4\n";
const std::string kEncoder =
    "[model]\nname = encoder\ndepth = 3\nembed = 32\nheads = 2\nexits = 3\n"
    "[data]\nsynthetic_vocabulary = 50\nlength = 16\n";
const std::string kCnn = "[model]\nname = cnn\nchannels = 8, 16\nfeatures = 32\n";
const std::string kStages =
    "[model]\nname = cnn\nchannels = 8, 16, 16\nkernel = 3\nfeatures = 32\nnorm = batch\nexits = "
    "3\n";

std::unique_ptr<Setting> make(const std::string& more) {
  return make_setting(
      "[data]\nsynthetic_samples = 200\n[method]\nname = cos2p\nmask_steps = 6\n"
      "[train]\nsteps = 4\nbatch = 20\n",
      more);
}

struct Outcome {
  ClientResult result;
  std::vector<float> trained;
  std::vector<float> started;  ///< the first values of the found submodel
  Submodel found;
};

/// A client's task that searches, from a model's first values.
Outcome search(const Setting& s, const Submodel& sent, double fraction, std::int64_t nth_task = 0,
               const Bytes& state = {}) {
  const Experiment& e = s.experiment;
  Parameters model(e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned));
  initialise(model, e.seed);
  const auto dense = e.plans->buffer_layout(sent, Packing::dense);
  const SharedBytes payload = pack_payload(*e.plans, model, *dense);
  ClientTask task;
  task.nth_task = nth_task;
  task.submodel = sent;
  task.search = fraction;
  task.state = state;
  ClientStepper stepper({s.config, e}, s.rules, task, std::ssize(*payload), payload);
  while (stepper.step()) {
  }
  Outcome outcome;
  SharedBytes values;
  std::tie(outcome.result, values) = stepper.finish();
  outcome.found = Submodel::decode(*e.model.layout, outcome.result.found);
  const auto floats = [](const Bytes& bytes) {
    std::vector<float> list(bytes.size() / sizeof(float));
    std::memcpy(list.data(), bytes.data(), bytes.size());
    return list;
  };
  outcome.trained = floats(*values);
  outcome.started = floats(
      *pack_payload(*e.plans, model, *e.plans->buffer_layout(outcome.found, Packing::dense)));
  return outcome;
}

Submodel depth(const Experiment& e, std::int64_t kept) { return cut_depth(e.model, kept); }

at::Tensor samples(const Experiment& e) {
  const std::vector<std::int64_t> first{0, 1, 2, 3, 4};
  return e.data.train->inputs(first, nullptr);
}

TEST(Gates, OfZeroAndOneEqualTheSmallerModel) {
  for (const std::string& text : {kVit, kEncoder, kCnn, kStages}) {
    const auto s = make(text);
    const Experiment& e = s->experiment;
    Parameters full(e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned));
    initialise(full, 3);
    Submodel submodel = full.submodel();
    std::vector<at::Tensor> gates(e.model.layout->axes.size());
    for (const MaskedAxis& masked : e.model.masked) {
      const std::int64_t width = submodel.width(masked.axis);
      const auto units =
          Stream(1, kTest, static_cast<std::uint64_t>(masked.axis)).choose((width + 1) / 2, width);
      at::Tensor& gate = gates[static_cast<std::size_t>(masked.axis)] = at::zeros({width});
      for (const std::int64_t unit : units) gate[unit].fill_(1);
      submodel.keep(masked.axis, units);
    }
    Parameters small(e.plans->buffer_layout(submodel, Packing::aligned));
    e.plans->plan(full.buffer_layout(), small.buffer_layout())->copy(full.data(), small.data());
    c10::NoGradGuard no_grad;
    Context open, gated;
    gated.gates = &gates;
    const at::Tensor x = samples(e);
    const at::Tensor expected = forward(e.model, small, x, open);
    EXPECT_TRUE(at::allclose(forward(e.model, full, x, gated), expected, 1e-4, 1e-5)) << text;
    EXPECT_FALSE(at::allclose(forward(e.model, full, x, open), expected, 1e-2, 1e-3)) << text;
  }
}

TEST(Masks, EveryLayerKeepsItsShareInsideWhatWasSent) {
  for (const std::string& text : {kVit, kEncoder, kCnn, kStages}) {
    for (const std::string masks : {"learned", "random", "magnitude"}) {
      const auto s = make(text + "[method]\nmasks = " + masks + "\n");
      const Experiment& e = s->experiment;
      const auto rule = s->rules.search({s->config, s->experiment});
      for (const double fraction : {0.01, 0.3, 0.75}) {
        const Submodel sent = depth(e, std::min<std::int64_t>(2, std::ssize(e.model.depth)));
        const Outcome outcome = search(*s, sent, fraction);
        EXPECT_TRUE(outcome.found.inside(sent));
        const Submodel expected = rule->expected(e.model, sent, fraction);
        for (const MaskedAxis& masked : e.model.masked) {
          if (!sent.has_block(masked.block)) continue;
          const auto width = static_cast<double>(sent.width(masked.axis));
          EXPECT_EQ(outcome.found.width(masked.axis),
                    std::max<std::int64_t>(1, std::llround(std::ceil(fraction * width - 1e-9))));
          EXPECT_EQ(outcome.found.width(masked.axis), expected.width(masked.axis));
        }
        EXPECT_GE(e.model.answer(outcome.found), 0);
        // Equal sizes and costs, so the server knows the time that the task will take.
        EXPECT_EQ(task_cost(e, LocalObjective(), outcome.found, 20).step_flops,
                  task_cost(e, LocalObjective(), expected, 20).step_flops);
        EXPECT_EQ(payload_bytes(*e.plans->buffer_layout(expected, Packing::dense)),
                  std::ssize(outcome.trained) * 4);
      }
    }
  }
}

TEST(Masks, SampledOnesKeepAtLeastOneUnitOfEveryLayer) {
  const auto s = make(kVit + "[method]\nmask_choice = sampled\nmask_lr = 30\nmask_penalty = 1e6\n");
  const Experiment& e = s->experiment;
  // The penalty drives every logit far below zero.
  const Outcome outcome = search(*s, depth(e, 4), 1e-9);
  std::int64_t kept = 0;
  for (const MaskedAxis& masked : e.model.masked) {
    EXPECT_GE(outcome.found.width(masked.axis), 1);
    kept += outcome.found.width(masked.axis);
  }
  EXPECT_LT(kept, 4 * 20);
}

TEST(Masks, TheShareOfUnitsThatAreOnFollowsTheOneAskedFor) {
  for (const std::string optimizer : {"adan", "sgd"}) {
    const std::string text = kVit + "[method]\nmask_choice = sampled\nmask_steps = 60\nmask_lr = " +
                             (optimizer == "sgd" ? "0.5" : "0.05") +
                             "\n[train]\noptimizer = " + optimizer + "\n";
    const auto s = make(text);
    const Submodel sent = depth(s->experiment, 4);
    const auto kept = [&](double fraction) {
      const Outcome outcome = search(*s, sent, fraction);
      std::int64_t units = 0;
      for (const MaskedAxis& masked : s->experiment.model.masked) {
        units += outcome.found.width(masked.axis);
      }
      return static_cast<double>(units) / (4.0 * (4 + 32 + 128 + 32));
    };
    EXPECT_NEAR(kept(0.3), 0.3, 0.1) << optimizer;
    EXPECT_NEAR(kept(0.7), 0.7, 0.1) << optimizer;
  }
}

TEST(Masks, PenaltiesBelongToTheTrainingAfterTheSearch) {
  // Norms are trained in the search too.
  const std::string penalties = "group_lasso = 0.1\nscale_l1 = 0.1\n";
  for (const bool trains : {false, true}) {
    const std::string text = kStages + "[method]\nmask_ratio = " + (trains ? "0.5" : "1") +
                             "\n[train]\nlr = 0.01\nsteps = 2\n";
    const auto plain = make(text), sparse = make(text + penalties);
    const Submodel sent = depth(plain->experiment, 3);
    const Outcome without = search(*plain, sent, 0.5), with = search(*sparse, sent, 0.5);
    EXPECT_EQ(without.found, with.found);
    EXPECT_EQ(without.trained != with.trained, trains);
    EXPECT_NE(without.trained, without.started);
  }
}

TEST(Masks, WeightsOfMaskedLayersStandStillWhileSearching) {
  // No training follows, so every change comes from the search.
  const auto s = make(kVit + "[train]\nlr = 0.01\nsteps = 1\n[method]\nmask_ratio = 1\n");
  const Experiment& e = s->experiment;
  const Outcome outcome = search(*s, depth(e, 3), 0.5);
  const BufferLayout dense(e.model.layout, outcome.found, Packing::dense);
  for (std::size_t index = 0; index < e.model.layout->entries.size(); ++index) {
    const BufferLayout::Place& place = dense.place(static_cast<int>(index));
    if (!place.present) continue;
    const auto begin = static_cast<std::size_t>(place.offset);
    const bool moved = std::memcmp(&outcome.trained[begin], &outcome.started[begin],
                                   static_cast<std::size_t>(place.count) * sizeof(float)) != 0;
    const std::string& name = e.model.layout->entries[index].name;
    const bool still = name.find("attn.") != std::string::npos ||
                       name.find("mlp.") != std::string::npos || name.starts_with("exits.0") ||
                       name.starts_with("exits.1");
    EXPECT_EQ(moved, !still) << name;
  }
}

TEST(Masks, AtRateZeroNothingMovesWhateverIsFound) {
  const auto s = make(kVit + "[train]\nlr = 0\n[method]\nmask_lr = 0.05\n");
  const Outcome outcome = search(*s, depth(s->experiment, 4), 0.25);
  EXPECT_EQ(outcome.trained, outcome.started);
}

TEST(Masks, ASecondSearchGoesOnFromTheFirst) {
  const auto s = make(kVit + "[method]\nmask_lr = 0.02\nmask_steps = 2\n");
  const Submodel sent = depth(s->experiment, 4);
  const Outcome first = search(*s, sent, 0.5);
  const Outcome warm = search(*s, sent, 0.5, 1, first.result.state);
  const Outcome cold = search(*s, sent, 0.5, 1);
  const int axis = s->experiment.model.transformer[0].hidden;
  const auto shared = [&](const Outcome& a, const Outcome& b) {
    std::vector<std::int64_t> both;
    std::ranges::set_intersection(a.found.units(axis), b.found.units(axis),
                                  std::back_inserter(both));
    return std::ssize(both);
  };
  EXPECT_GT(shared(first, warm), 50);  // of 64; two steps change little
  EXPECT_NE(warm.found, cold.found);
  EXPECT_EQ(search(*s, sent, 0.5, 1, first.result.state).result.state, warm.result.state);
}

TEST(Masks, TheSearchKeepsWithinItsBound) {
  const std::string kAgain = "[method]\nmask_steps = 3\n[train]\nsteps = 2\nbatch = ";
  for (const std::string& text : {kVit, kEncoder, kCnn, kStages}) {
    for (const std::string batch : {"4", "32"}) {
      const auto s = make(text + kAgain + batch + "\n");
      const Experiment& e = s->experiment;
      const auto rule = s->rules.search({s->config, s->experiment});
      std::set<std::uint64_t> seen;
      for (std::int64_t kept = 0; kept <= std::ssize(e.model.depth); ++kept) {
        const Submodel sent = depth(e, kept);
        if (!seen.insert(sent.hash()).second || (kept == 0 && !e.model.depth.empty())) continue;
        const Outcome outcome = search(*s, sent, 0.5);
        const std::int64_t bound = search_cost(e, *rule, sent, e.batch_of(0)).peak_bytes;
        const auto ratio =
            static_cast<double>(bound) / static_cast<double>(outcome.result.search_peak_bytes);
        EXPECT_GE(ratio, 1) << text << batch << " " << kept;
        EXPECT_LE(ratio, 1.25) << text << batch << " " << kept;
        const auto objective = s->rules.objective({s->config, s->experiment});
        const std::int64_t after =
            task_cost(e, *objective, outcome.found, e.batch_of(0)).peak_bytes;
        EXPECT_LE(outcome.result.peak_bytes, std::max(bound, after)) << text << batch;
        EXPECT_GE(outcome.result.peak_bytes, outcome.result.search_peak_bytes);
      }
    }
  }
}

TEST(Masks, FourMatricesShrinkByTheFormula) {
  // (7 r + 5 r^2) / 12 of each block, times r for the depth; attention r for heads
  // (docs/methods/cos2p.md, "What a client trains").
  const auto s = make(
      "[model]\nname = vit\ndepth = 4\nembed = 64\nheads = 4\nmlp = 256\npatch = 4\nexits = 4\n"
      "qkv_bias = false\n");
  const Experiment& e = s->experiment;
  const auto rule = s->rules.search({s->config, s->experiment});
  const auto matrices = [&](const Submodel& submodel) {
    const BufferLayout dense(e.model.layout, submodel, Packing::dense);
    std::int64_t values = 0;
    for (std::size_t index = 0; index < e.model.layout->entries.size(); ++index) {
      const Entry& entry = e.model.layout->entries[index];
      const bool one = entry.name.find("attn.") != std::string::npos ||
                       entry.name.find("mlp.") != std::string::npos;
      if (one && entry.dimensions.size() == 2) values += dense.place(static_cast<int>(index)).count;
    }
    return static_cast<double>(values);
  };
  // Operations of matrix products, without biases, and of attention.
  const auto flops = [&](const Submodel& submodel, Work work) {
    double sum = 0;
    for (const BlockCost& block : task_cost(e, LocalObjective(), submodel, 8).blocks) {
      const std::string& name = e.model.layout->blocks[static_cast<std::size_t>(block.block)];
      if (name.starts_with("blocks.")) {
        sum += static_cast<double>(block.step_flops[static_cast<std::size_t>(work)]);
      }
    }
    return sum;
  };
  const Submodel full = Submodel::full(*e.model.layout);
  for (const double r : {0.25, 0.5, 0.75}) {
    const Submodel sent = depth(e, static_cast<std::int64_t>(4 * r));
    const Submodel small = rule->expected(e.model, sent, r);
    const double fraction = (7 * r + 5 * r * r) / 12 * r;
    EXPECT_DOUBLE_EQ(matrices(small) / matrices(full), fraction);
    EXPECT_NEAR(flops(small, Work::product) / flops(full, Work::product), fraction,
                0.01 * fraction);
    EXPECT_DOUBLE_EQ(flops(small, Work::attention) / flops(full, Work::attention), r * r);
  }
}

}  // namespace
}  // namespace espalier::rounds
