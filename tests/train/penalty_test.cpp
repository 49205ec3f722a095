// The gradients of the penalties against autograd of the formulas, written with tensors for each
// family by the names of its layers; their costs against counts by hand; their effect on training.

#include "espalier/train/penalty.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"
#include "espalier/device/memory.h"
#include "espalier/train/task_cost.h"
#include "espalier/train/trainer.h"
#include "model/family_fixture.h"

namespace espalier {
namespace {

constexpr double kLasso = 0.3;
constexpr double kL1 = 0.7;
constexpr double kUnit = 0x1p-24;  // of a float rounded to nearest

/// The layers (or their weights and biases one by one) whose outputs are the same units, in `heads`
/// groups of rows if that is not 0, and the norm of these units.
struct Group {
  std::vector<std::string> layers;
  std::string norm = {};
  int heads_axis = -1;
  int parts = 1;  // layers in one: queries, keys and values of all heads, or the gates of an lstm
};

struct Case {
  std::string what;
  Settings settings;
  DataShape shape;
  std::vector<Group> groups;
};

const DataShape kImage{{2, 16, 16}, 5};
const DataShape kTokens{{12}, 40, 40, true};

std::vector<Group> attention_and_mlp(const std::string& block, const std::string& qkv,
                                     const std::string& up, int heads_axis) {
  return {{{block + qkv}, "", heads_axis, 3}, {{block + up}}};
}

std::vector<Group> joined(std::vector<Group> a, const std::vector<Group>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::vector<Group> residual_blocks(bool bottleneck, const std::vector<int>& blocks) {
  std::vector<Group> groups;
  for (std::size_t stage = 0; stage < blocks.size(); ++stage) {
    for (int i = 0; i < blocks[stage]; ++i) {
      const std::string block = formatted("layer{}.{}.", stage + 1, i);
      groups.push_back({{block + "conv1"}, block + "bn1"});
      if (bottleneck) groups.push_back({{block + "conv2"}, block + "bn2"});
    }
  }
  return groups;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const std::vector<Group> cnn{{{"conv1"}, "norm1"}, {{"conv2"}, "norm2"}, {{"fc1"}, "norm3"}};
  const Settings small_cnn{{"name", "cnn"}, {"channels", "6,10"}, {"features", "14"}};
  for (const char* norm : {"batch", "group", "layer"}) {
    Settings settings = small_cnn;
    settings["norm"] = norm;
    all.push_back({formatted("cnn {}", norm), settings, kImage, cnn});
  }
  all.push_back({"cnn without norm", small_cnn, kImage, {{{"conv1"}}, {{"conv2"}}, {{"fc1"}}}});
  all.push_back({"mlp",
                 {{"name", "mlp"}, {"hidden", "30,9"}, {"norm", "layer"}},
                 kImage,
                 {{{"fc1"}, "norm1"}, {{"fc2"}, "norm2"}}});
  all.push_back({"resnet18",
                 {{"name", "resnet"}, {"width", "4"}, {"norm", "batch"}},
                 kImage,
                 residual_blocks(false, {2, 2, 2, 2})});
  all.push_back({"resnet50",
                 {{"name", "resnet"}, {"depth", "50"}, {"width", "4"}, {"norm", "batch"}},
                 kImage,
                 residual_blocks(true, {3, 4, 6, 3})});
  const Settings transformer{{"depth", "2"}, {"embed", "24"}, {"heads", "4"}, {"mlp", "20"}};
  Settings vit = transformer;
  vit["name"] = "vit";
  // Axes: input, embed, classes; of each block heads, columns, rows, hidden, rows.
  all.push_back({"vit", vit, kImage,
                 joined(attention_and_mlp("blocks.0.", "attn.qkv", "mlp.fc1", 3),
                        attention_and_mlp("blocks.1.", "attn.qkv", "mlp.fc1", 8))});
  Settings gpt = transformer;
  gpt.insert({{"name", "gpt"},
              {"kv_heads", "2"},
              {"fused_qkv", "false"},
              {"activation", "swiglu"},
              {"positions", "rotary"},
              {"rms_norm", "true"}});
  std::vector<Group> separate;
  for (const std::string block : {"h.0.", "h.1."}) {
    separate.push_back({{block + "attn.q_proj", block + "attn.k_proj", block + "attn.v_proj"}});
    // Axes: vocabulary, embed; of each block heads, columns, value columns, rows, hidden, rows.
    separate.back().heads_axis = block == "h.0." ? 2 : 8;
    separate.push_back({{block + "mlp.gate_proj", block + "mlp.c_fc"}});
  }
  all.push_back({"gpt", gpt, kTokens, separate});
  std::vector<Group> lstm;
  for (const std::string layer : {"_l0", "_l1"}) {
    lstm.push_back({{"lstm.weight_ih" + layer, "lstm.weight_hh" + layer, "lstm.bias_ih" + layer,
                     "lstm.bias_hh" + layer}});
    lstm.back().parts = 4;
  }
  all.push_back({"lstm", {{"name", "lstm"}, {"embed", "7"}, {"hidden", "12,9"}}, kTokens, lstm});
  return all;
}

void fill(Parameters& p, std::uint64_t key) {
  const BufferLayout& places = p.buffer_layout();
  Stream stream(5, kTest, key);
  for (std::size_t entry = 0; entry < places.layout().entries.size(); ++entry) {
    const BufferLayout::Place& place = places.place(static_cast<int>(entry));
    for (std::int64_t i = 0; place.present && i < place.count; ++i) {
      p.data()[place.offset + i] = static_cast<float>(stream.normal());
    }
  }
}

/// Double copies of a submodel's entries, for autograd.
class Copies {
 public:
  Copies(const Model& model, const Parameters& p) : model_(model) {
    for (std::size_t entry = 0; entry < model.layout->entries.size(); ++entry) {
      const bool present = p.buffer_layout().place(static_cast<int>(entry)).present;
      values_.push_back(present ? p[static_cast<int>(entry)].detach().to(at::kDouble)
                                : at::Tensor());
      if (present) values_.back().set_requires_grad(true);
    }
  }
  bool has(const std::string& name) const {
    return std::ranges::any_of(model_.layout->entries,
                               [&](const Entry& entry) { return entry.name == name; });
  }
  const at::Tensor& operator[](const std::string& name) const {
    return values_[static_cast<std::size_t>(entry_named(model_, name))];
  }
  const at::Tensor& operator[](int entry) const { return values_[static_cast<std::size_t>(entry)]; }

 private:
  const Model& model_;
  std::vector<at::Tensor> values_;
};

/// The weights of each unit, one row a unit.
at::Tensor rows_of(const Copies& w, const Group& group, const Submodel& submodel) {
  std::vector<at::Tensor> parts;
  for (const std::string& layer : group.layers) {
    for (const char* suffix : {"", ".weight", ".bias"}) {
      if (!w.has(layer + suffix)) continue;
      const at::Tensor& value = w[layer + suffix];
      const std::int64_t units =
          group.heads_axis < 0 ? value.size(0) / group.parts : submodel.width(group.heads_axis);
      parts.push_back(value.reshape({group.parts, units, -1}).transpose(0, 1).reshape({units, -1}));
    }
  }
  return at::cat(parts, 1);
}

/// The gradient of both penalties by autograd.
void expect_gradient(const Model& model, const Parameters& p, const std::vector<Group>& groups,
                     const at::Tensor& gradients, const std::string& what) {
  const Copies w(model, p);
  at::Tensor penalty = at::zeros({}, at::kDouble);
  for (const Group& group : groups) {
    const at::Tensor rows = rows_of(w, group, p.submodel());
    penalty =
        penalty + kLasso * std::sqrt(static_cast<double>(rows.size(1))) * rows.norm(2, 1).sum();
    if (!group.norm.empty()) penalty = penalty + kL1 * w[group.norm + ".weight"].abs().sum();
  }
  penalty.backward();
  at::Tensor expected = at::zeros(gradients.sizes(), at::kDouble);
  for (std::size_t entry = 0; entry < model.layout->entries.size(); ++entry) {
    const BufferLayout::Place& place = p.buffer_layout().place(static_cast<int>(entry));
    const at::Tensor value = w[static_cast<int>(entry)];
    if (!place.present || !value.grad().defined()) continue;
    expected.narrow(0, place.offset, place.count).copy_(value.grad().flatten());
  }
  // The factor, its product with the weight, and the sum with 0 are rounded once each; another
  // unit for the double operations on both sides.
  const at::Tensor error = (gradients - expected).abs() - 4 * kUnit * expected.abs();
  EXPECT_LE(error.max().item<double>(), 0) << what;
  EXPECT_GT((expected != 0).sum().item<std::int64_t>(), 0) << what;
}

TrainSettings both_penalties() {
  TrainSettings settings;
  settings.group_lasso = kLasso;
  settings.scale_l1 = kL1;
  return settings;
}

at::Tensor gradient_of(const Model& model, const Parameters& p) {
  at::Tensor gradients = at::zeros(p.trainable().sizes());
  Penalty(both_penalties(), model, p.buffer_layout()).add_gradient(p.trainable(), gradients);
  return gradients;
}

TEST(Penalty, GradientIsThatOfTheFormulasInEveryFamilyAndSubmodel) {
  for (const Case& c : cases()) {
    const Model model = make(c.settings, c.shape);
    Parameters full = values_of(model, Submodel::full(*model.layout));
    fill(full, 1);
    expect_gradient(model, full, c.groups, gradient_of(model, full), c.what);
    for (const Choice choice : {Choice::leading, Choice::random, Choice::smallest}) {
      Submodel submodel = select(*model.layout, 0.5, choice);
      for (const TransformerAxes& axes : model.transformer) submodel.keep(axes.heads, {1});
      const Parameters small = sliced(model, full, submodel);
      expect_gradient(model, small, c.groups, gradient_of(model, small), c.what + ", cut");
    }
  }
}

TEST(Penalty, DroppedBlocksHaveNone) {
  const Model model =
      make({{"name", "vit"}, {"depth", "2"}, {"embed", "24"}, {"heads", "4"}}, kImage);
  Parameters full = values_of(model, Submodel::full(*model.layout));
  fill(full, 2);
  const Parameters shallow = sliced(model, full, cut_depth(model, 1));
  expect_gradient(model, shallow, attention_and_mlp("blocks.0.", "attn.qkv", "mlp.fc1", 3),
                  gradient_of(model, shallow), "one block");
}

TEST(Penalty, IsAddedToTheGradientAndZeroWhereAUnitOrAScaleIsZero) {
  const Model model =
      make({{"name", "cnn"}, {"channels", "6,10"}, {"features", "14"}, {"norm", "batch"}}, kImage);
  Parameters p = values_of(model, Submodel::full(*model.layout));
  fill(p, 3);
  const Named w(model, p);
  w["conv2.weight"][4].zero_();
  w["conv2.bias"][4].zero_();
  w["fc1.weight"][2].fill_(1e-30);  // its square is not a float
  w["fc1.bias"][2].zero_();
  w["norm1.weight"].copy_(at::tensor({-2.0F, 0.0F, 3.0F, -0.0F, 1e-30F, -1e-30F}));
  at::Tensor gradients = at::full(p.trainable().sizes(), 8.0F);
  Penalty(both_penalties(), model, p.buffer_layout()).add_gradient(p.trainable(), gradients);
  const auto part = [&](const std::string& name) {
    const BufferLayout::Place& place = p.buffer_layout().place(entry_named(model, name));
    return gradients.narrow(0, place.offset, place.count).view(place.shape);
  };
  EXPECT_TRUE((part("conv2.weight")[4] == 8).all().item<bool>());
  EXPECT_TRUE((part("conv2.weight")[3] != 8).all().item<bool>());
  EXPECT_TRUE(gradients.isfinite().all().item<bool>());
  // 160 equal weights and a bias of 0: lambda sqrt(161) / sqrt(160) each.
  EXPECT_NEAR(part("fc1.weight")[2][7].item<double>(), 8 + kLasso * std::sqrt(161.0 / 160), 1e-6);
  EXPECT_TRUE(at::allclose(part("norm1.weight") - 8,
                           at::tensor({-0.7F, 0.0F, 0.7F, 0.0F, 0.7F, -0.7F}), 0, 1e-6));
  for (const char* name : {"fc2.weight", "fc2.bias", "norm2.bias"}) {
    EXPECT_TRUE((part(name) == 8).all().item<bool>()) << name;
  }
}

TEST(Penalty, ThreadsDoNotChangeValues) {
  const Model model = make({{"name", "mlp"}, {"hidden", "300,200"}});
  Parameters p = full_values(model);
  const at::Tensor one = gradient_of(model, p);
  at::set_num_threads(3);
  const at::Tensor three = gradient_of(model, p);
  at::set_num_threads(1);
  EXPECT_TRUE(at::equal(one, three));
}

// Training.

struct Trained {
  Experiment experiment;
  Parameters parameters;
  std::int64_t peak_bytes = 0;
  double loss = 0;
};

const std::string kCnn =
    "[model]\nname = cnn\nchannels = 6, 10\nfeatures = 14\nkernel = 3\nnorm = batch\n";

Experiment experiment_of(const std::string& more) {
  install_counting_allocator();
  OptionTable table;
  declare_experiment_options(table);
  declare_model_options(table);
  declare_data_options(table);
  declare_device_options(table);
  declare_train_options(table);
  Config config(table);
  config.read_text(
      "[data]\nname = synthetic\nsynthetic_samples = 120\nsynthetic_shape = 1, 12, 12\n"
      "[clients]\ncount = 1\n",
      "the test");
  config.read_text(more, "the test's settings");
  return build_experiment(config);
}

/// Trains the leading `fraction` of each layer's units from the first values.
Trained train(const std::string& text, std::int64_t steps, double fraction = 1) {
  Trained made{experiment_of(text), {}};
  const Experiment& e = made.experiment;
  Parameters model(e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned));
  initialise(model, e.seed);
  LocalTask task;
  task.submodel = select(*e.model.layout, fraction, Choice::leading);
  const auto dense = e.plans->buffer_layout(task.submodel, Packing::dense);
  const auto payload = pack_payload(*e.plans, model, *dense);
  const auto account = MemoryAccount::create(0);
  const MemoryScope scope(account);
  account->charge(std::ssize(*payload));
  LocalObjective objective;
  Trainer trainer(e, 0, 0, 0);
  trainer.place(e.model.layout, task.submodel, *payload);
  trainer.attach_optimizer();
  for (std::int64_t step = 0; step < steps; ++step) trainer.train_batch(objective, task);
  made.parameters = trainer.parameters();
  made.peak_bytes = account->peak_bytes();
  made.loss = trainer.mean_loss();
  return made;
}

const std::string kPenalties = "group_lasso = 0.02\nscale_l1 = 0.05\n";

TEST(SparseTraining, OneStepAddsThePenaltiesAloneAndLeavesTheRestToTheLastBit) {
  const std::string text = kCnn + "[train]\nlr = 0.5\nbatch = 20\n";
  const Trained start = train(text, 0);
  const Trained plain = train(text, 1);
  const Trained sparse = train(text + kPenalties, 1);
  EXPECT_EQ(plain.loss, sparse.loss);  // the penalties are not part of it
  const Model& model = plain.experiment.model;
  at::Tensor gradients = at::zeros(start.parameters.trainable().sizes());
  Penalty(sparse.experiment.train, sparse.experiment.model, start.parameters.buffer_layout())
      .add_gradient(start.parameters.trainable(), gradients);
  const at::Tensor moved =
      sparse.parameters.trainable().detach() - plain.parameters.trainable().detach();
  EXPECT_TRUE(at::allclose(moved, -0.5 * gradients, 0, 1e-6));
  EXPECT_TRUE(((moved != 0) <= (gradients != 0)).all().item<bool>());
  EXPECT_GT((moved != 0).sum().item<std::int64_t>(), trainable_count(model) / 2);
}

TEST(SparseTraining, PartsOfABatchHaveThePenaltyOnce) {
  // Layer norm, because batch norm sees one part at a time.
  const std::string text =
      "[model]\nname = mlp\nhidden = 20\nnorm = layer\n[train]\nlr = 0.5\nbatch = 20\n" +
      kPenalties;
  const at::Tensor whole = train(text, 2).parameters.trainable().detach();
  const at::Tensor parts = train(text + "accumulate = 4\n", 2).parameters.trainable().detach();
  EXPECT_TRUE(at::allclose(whole, parts, 1e-4, 1e-5));
}

TEST(SparseTraining, ClippingLimitsTheLossWithItsPenalties) {
  const std::string text = kCnn + "[train]\nlr = 0.5\nbatch = 20\nclip = 0.01\n";
  const auto length = [&](const std::string& more) {
    const Trained start = train(text, 0), end = train(text + more, 1);
    return (end.parameters.trainable() - start.parameters.trainable()).norm().item<double>();
  };
  EXPECT_NEAR(length("group_lasso = 5\n"), 0.5 * 0.01, 1e-5);
}

TEST(SparseTraining, ShrinksEveryLayersUnitsAndScales) {
  const std::string text = kCnn + "[train]\nlr = 0.05\nbatch = 20\nepochs = 9\n";
  const Trained plain = train(text, 40);
  const Trained lasso = train(text + "group_lasso = 0.05\n", 40);
  const Trained slim = train(text + "scale_l1 = 0.05\n", 40);
  const Model& model = plain.experiment.model;
  const Named w(model, plain.parameters), l(model, lasso.parameters), s(model, slim.parameters);
  for (const char* layer : {"conv1", "conv2", "fc1"}) {
    const auto norms = [&](const Named& of) {
      return of[std::string(layer) + ".weight"].flatten(1).norm(2, 1).mean().item<double>();
    };
    EXPECT_LT(norms(l), 0.8 * norms(w)) << layer;
  }
  for (const char* name : {"norm1.weight", "norm2.weight", "norm3.weight"}) {
    // 40 steps of 0.05 x 0.05 from the first scale of 1, if the loss held still.
    const double fall = (w[name] - s[name]).mean().item<double>();
    EXPECT_GT(fall, 0.05) << name;
    EXPECT_LT(fall, 0.15) << name;
  }
}

TEST(SparseTraining, KeepsWithinTheMemoryBoundAndAddsNothingToIt) {
  const std::string text = kCnn + "[train]\nmomentum = 0.9\nbatch = 20\n";
  for (const double fraction : {1.0, 0.5}) {
    const Trained sparse = train(text + kPenalties, 3, fraction);
    const Experiment& e = sparse.experiment;
    const Submodel submodel = select(*e.model.layout, fraction, Choice::leading);
    const std::int64_t bound = task_cost(e, LocalObjective(), submodel, 20).peak_bytes;
    EXPECT_LE(sparse.peak_bytes, bound);
    EXPECT_LE(bound, sparse.peak_bytes * 5 / 4);
    EXPECT_EQ(sparse.peak_bytes, train(text, 3, fraction).peak_bytes);
  }
}

TEST(PenaltyCost, CountsGroupedWeightsAndScales) {
  // 12x12 images, pooled twice: 3x3 positions before the hidden layer.
  const auto cost = [](const std::string& penalties, double fraction) {
    const Experiment e = experiment_of(kCnn + "[train]\n" + penalties);
    return penalty_cost(e, select(*e.model.layout, fraction, Choice::leading));
  };
  const std::int64_t grouped = 6 * (9 + 1) + 10 * (6 * 9 + 1) + 14 * (10 * 9 + 1);
  const std::int64_t half = 3 * (9 + 1) + 5 * (3 * 9 + 1) + 7 * (5 * 9 + 1);
  EXPECT_EQ(cost("group_lasso = 1e-4\n", 1).step_flops, 4 * grouped);
  EXPECT_EQ(cost("scale_l1 = 1e-4\n", 1).step_flops, 2 * (6 + 10 + 14));
  EXPECT_EQ(cost(kPenalties, 1).step_flops, 4 * grouped + 2 * 30);
  const TrainingCost both = cost(kPenalties, 0.5);
  EXPECT_EQ(both.step_flops, 4 * half + 2 * 15);
  ASSERT_EQ(both.blocks.size(), 1U);
  EXPECT_EQ(both.blocks[0].step_flops[static_cast<std::size_t>(Work::other)], both.step_flops);
  EXPECT_EQ(both.blocks[0].moved_bytes, 12 * (half + 15));
  EXPECT_EQ(cost("", 1).step_flops, 0);
  EXPECT_TRUE(cost("", 1).blocks.empty());
}

TEST(Penalty, RefusesModelsWithoutItsValues) {
  const auto refusal = [](const std::string& text) {
    try {
      experiment_of(text);
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string l1 = "[train]\nscale_l1 = 0.001\n", lasso = "[train]\ngroup_lasso = 0.001\n";
  const std::string vit = "[model]\nname = vit\ndepth = 1\nembed = 12\n";
  EXPECT_NE(refusal("[model]\nname = mlp\n" + l1).find("train.scale_l1 = 0.001"),
            std::string::npos);
  EXPECT_NE(refusal(vit + l1).find("train.group_lasso instead"), std::string::npos);
  EXPECT_EQ(refusal(vit + lasso), "");
  EXPECT_NE(refusal(vit + "adapter_rank = 2\n" + lasso + "only = adapters\n")
                .find("no hidden unit of model.name = vit has weights that are trained"),
            std::string::npos);
  EXPECT_EQ(refusal("[model]\nname = mlp\nnorm = layer\n" + l1), "");
}

}  // namespace
}  // namespace espalier
