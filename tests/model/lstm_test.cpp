// lstm against PyTorch's own LSTM and linear layer in double precision, on the same parameters.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/model/cost.h"
#include "espalier/model/recurrence.h"
#include "family_fixture.h"

namespace espalier {
namespace {

// Terms are of order one, and a value passes tens of sums of tens of terms, each rounded to 2^-24.
constexpr double kClose = 1e-6;

Settings small(const Settings& more = {}) {
  Settings settings{{"name", "lstm"}, {"embed", "7"}, {"hidden", "20,13"}};
  for (const auto& [key, value] : more) settings[key] = value;
  return settings;
}

const DataShape kNext{{11}, 23, 23, true};
const DataShape kClasses{{11}, 5, 23, false};

at::Tensor texts(std::int64_t batch, const DataShape& shape, std::uint64_t key = 0) {
  Stream stream(13, kTest, key);
  at::Tensor x = at::empty({batch, shape.sample[0]}, at::kLong);
  auto* data = x.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    data[i] = static_cast<std::int64_t>(stream.uniform() * static_cast<double>(shape.vocabulary));
  }
  return x;
}

at::Tensor labels(std::int64_t batch, const DataShape& shape) {
  return at::arange(batch * shape.targets(), at::kLong).mul(3).remainder(shape.classes);
}

at::Tensor train(const Model& model, const Parameters& p, const at::Tensor& x,
                 bool scaler = false) {
  Context context;
  context.mode = Mode::train;
  context.scaler = scaler;
  return forward(model, p, x, context);
}

at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& y) {
  return at::cross_entropy_loss(logits.flatten(0, -2), y);
}

/// Every entry in double precision, as leaves of autograd.
std::vector<at::Tensor> doubles(const Model& model, const Parameters& p) {
  std::vector<at::Tensor> values;
  for (std::size_t e = 0; e < model.layout->entries.size(); ++e) {
    values.push_back(p[static_cast<int>(e)].detach().to(at::kDouble).requires_grad_());
  }
  return values;
}

/// PyTorch's layers on these values: the entries of the embedding, of each layer and of the head.
/// `scales`: of the embedding's and each layer's outputs where they are read.
at::Tensor reference(const Model& model, const std::vector<at::Tensor>& v, const at::Tensor& x,
                     const std::vector<double>& scales = {}) {
  const auto scale = [&](std::size_t i) { return scales.empty() ? 1.0 : scales[i]; };
  const auto value = [&](const std::string& name) {
    return v[static_cast<std::size_t>(entry_named(model, name))];
  };
  at::Tensor h = at::embedding(value("embedding.weight"), x) * scale(0);
  std::size_t layers = 0;
  for (const std::string& block : model.layout->blocks) layers += block.starts_with("lstm");
  for (std::size_t i = 0; i < layers; ++i) {
    const std::string l = "_l" + std::to_string(i);
    const at::Tensor recurrent = value("lstm.weight_hh" + l) * scale(i + 1);
    const std::vector<at::Tensor> weights{value("lstm.weight_ih" + l), recurrent,
                                          value("lstm.bias_ih" + l), value("lstm.bias_hh" + l)};
    const at::Tensor zeros = at::zeros({1, x.size(0), recurrent.size(1)}, at::kDouble);
    h = std::get<0>(at::lstm(h, {zeros, zeros}, weights, /*has_biases=*/true, /*num_layers=*/1,
                             /*dropout=*/0, /*train=*/true, /*bidirectional=*/false,
                             /*batch_first=*/true)) *
        scale(i + 1);
  }
  if (!model.shape.next_token) h = h.select(1, -1);
  return at::linear(h, value("fc.weight"), value("fc.bias"));
}

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

void expect_within(const at::Tensor& ours, const at::Tensor& theirs, double tolerance,
                   const std::string& what) {
  ASSERT_EQ(ours.sizes(), theirs.sizes()) << what;
  EXPECT_GT(largest(theirs), 10 * tolerance) << what;
  EXPECT_LE(largest(ours.detach().to(at::kDouble) - theirs.detach()), tolerance) << what;
}

void expect_equals_pytorch(const Model& model, Parameters p, std::int64_t batch, bool scaler,
                           const std::vector<double>& scales, const std::string& what) {
  p.attach_gradients();
  p.zero_gradients();
  const at::Tensor x = texts(batch, model.shape);
  const at::Tensor y = labels(batch, model.shape);
  const at::Tensor logits = train(model, p, x, scaler);
  loss_of(logits, y).backward();
  const std::vector<at::Tensor> v = doubles(model, p);
  const at::Tensor expected = reference(model, v, x, scales);
  loss_of(expected, y).backward();
  expect_within(logits, expected, kClose * largest(expected), what);
  double of_model = 0;
  for (const at::Tensor& value : v) of_model = std::max(of_model, largest(value.grad()));
  for (std::size_t e = 0; e < v.size(); ++e) {
    const std::string& name = model.layout->entries[e].name;
    // A text of one step has no step before it.
    if (model.shape.sample[0] == 1 && name.starts_with("lstm.weight_hh")) {
      EXPECT_EQ(p[static_cast<int>(e)].grad().count_nonzero().item<std::int64_t>(), 0);
      continue;
    }
    expect_within(p[static_cast<int>(e)].grad(), v[e].grad(), kClose * of_model, what + " " + name);
  }
}

TEST(Lstm, OutputsAndGradientsEqualPyTorchsInDouble) {
  for (DataShape shape : {kNext, kClasses}) {
    for (const std::int64_t steps : {1, 2, 40}) {
      shape.sample = {steps};
      for (const std::int64_t batch : {1, 6}) {
        for (const Settings& settings :
             {small(), small({{"layers", "1"}, {"hidden", "32"}}),
              small({{"layers", "3"}, {"hidden", "9"}}), small({{"hidden", "13,20"}})}) {
          const Model model = make(settings, shape);
          expect_equals_pytorch(model, full_values(model), batch, false, {},
                                formatted("{} steps, batch {}, hidden {}, next token {}", steps,
                                          batch, settings.at("hidden"), shape.next_token));
        }
      }
    }
  }
}

TEST(Lstm, OfLeafsSizeEqualsPyTorchsInDouble) {
  const Model model =
      make({{"name", "lstm"}, {"embed", "8"}, {"hidden", "256"}}, {{80}, 256, 256, false});
  expect_equals_pytorch(model, full_values(model), 4, false, {}, "LEAF's model");
}

TEST(Lstm, EvaluatesToTheBitAsItTrains) {
  for (const DataShape& shape : {kNext, kClasses}) {
    const Model model = make(small(), shape);
    Parameters p = full_values(model);
    const at::Tensor x = texts(5, shape);
    const at::Tensor evaluated = run(model, p, x);
    p.attach_gradients();
    EXPECT_TRUE(same_bits(evaluated, train(model, p, x).detach()));
  }
}

/// Zeroes what makes the dropped units: rows of all four gates and their biases, columns of the
/// embedding.
void zero_dropped(const Model& model, Parameters& full, const Submodel& submodel) {
  for (std::size_t e = 0; e < model.layout->entries.size(); ++e) {
    const Entry& entry = model.layout->entries[e];
    const bool embeds = entry.name == "embedding.weight";
    const Dimension& made = entry.dimensions[embeds ? 1 : 0];
    const int axis = made.back().axis;
    if (axis < 0 || submodel.is_full(axis)) continue;
    at::Tensor kept = at::zeros({submodel.full_width(axis)});
    for (const std::int64_t unit : submodel.units(axis)) kept[unit].fill_(1);
    if (made.size() == 2) kept = kept.repeat({4});
    full[static_cast<int>(e)].mul_(embeds || entry.dimensions.size() == 1 ? kept
                                                                          : kept.unsqueeze(1));
  }
}

TEST(Lstm, ASliceEqualsTheFullModelWithTheDroppedUnitsZeroed) {
  for (const DataShape& shape : {kNext, kClasses}) {
    for (const Settings& settings : {small(), small({{"layers", "3"}, {"hidden", "16"}})}) {
      const Model model = make(settings, shape);
      for (const Choice choice :
           {Choice::leading, Choice::rolling, Choice::random, Choice::smallest}) {
        for (const double fraction : {0.5, 0.25}) {
          const Submodel submodel = select(*model.layout, fraction, choice);
          Parameters full = full_values(model);
          Parameters part = sliced(model, full, submodel);
          zero_dropped(model, full, submodel);
          const at::Tensor x = texts(6, shape);
          const at::Tensor y = labels(6, shape);
          const auto pass = [&](Parameters& p) {
            p.attach_gradients();
            p.zero_gradients();
            const at::Tensor logits = train(model, p, x);
            loss_of(logits, y).backward();
            return logits.detach();
          };
          expect_close(pass(part), pass(full), kClose);
          // So does its gradient equal the full one's at the kept places.
          Parameters expected(part.buffer_layout_ptr());
          const Plan plan(full.buffer_layout(), part.buffer_layout());
          plan.copy(full.gradients().const_data_ptr<float>(), expected.data());
          expect_close(part.gradients(), expected.flat(), kClose);
          EXPECT_GT(part.gradients().abs().max().item<double>(), 1e-3);
        }
      }
    }
  }
}

TEST(Lstm, AUnitIsTheRowsOfItsFourGatesAndItsColumns) {
  const Model model = make(small(), kNext);
  const Parameters full = full_values(model);
  Submodel submodel = Submodel::full(*model.layout);
  const auto axis = [&](const std::string& name) {
    for (std::size_t i = 0; i < model.layout->axes.size(); ++i) {
      if (model.layout->axes[i].name == name) return static_cast<int>(i);
    }
    return -1;
  };
  submodel.keep(axis("lstm.0"), {2, 5, 19});
  const Parameters part = sliced(model, full, submodel);
  const Named f(model, full), p(model, part);
  const at::Tensor units = at::tensor({2, 5, 19}, at::kLong);
  const at::Tensor rows = at::cat({units, units + 20, units + 40, units + 60});
  for (const std::string name : {"weight_ih", "bias_ih", "bias_hh"}) {
    const std::string entry = "lstm." + name + "_l0";
    EXPECT_TRUE(same_bits(p[entry], f[entry].index_select(0, rows))) << name;
  }
  EXPECT_TRUE(same_bits(p["lstm.weight_hh_l0"],
                        f["lstm.weight_hh_l0"].index_select(0, rows).index_select(1, units)));
  EXPECT_TRUE(same_bits(p["lstm.weight_ih_l1"], f["lstm.weight_ih_l1"].index_select(1, units)));
  EXPECT_TRUE(same_bits(p["lstm.weight_hh_l1"], f["lstm.weight_hh_l1"]));
  EXPECT_TRUE(same_bits(p["fc.weight"], f["fc.weight"]));
  submodel.keep(axis("lstm.1"), {0, 7});
  const Parameters both = sliced(model, full, submodel);
  EXPECT_TRUE(same_bits(Named(model, both)["fc.weight"],
                        f["fc.weight"].index_select(1, at::tensor({0, 7}, at::kLong))));
}

TEST(Lstm, GatherThenScatterIsTheIdentityOnKeptAndTouchesNothingElse) {
  const Model model = make(small({{"layers", "3"}, {"hidden", "9"}}), kNext);
  for (const Choice choice : {Choice::leading, Choice::rolling, Choice::random, Choice::smallest}) {
    Parameters full = full_values(model);
    full.flat().copy_(at::arange(1, full.flat().numel() + 1, at::kFloat));
    const at::Tensor before = full.flat().clone();
    Parameters part = sliced(model, full, select(*model.layout, 0.3, choice));
    const Plan back(part.buffer_layout(), full.buffer_layout());
    back.copy(part.data(), full.data());
    EXPECT_TRUE(same_bits(full.flat(), before));
    part.flat().mul_(2);
    back.copy(part.data(), full.data());
    EXPECT_EQ(full.flat().ne(before).sum().item<std::int64_t>(), part.buffer_layout().count());
    EXPECT_EQ(full.flat().eq(before * 2).sum().item<std::int64_t>(), part.buffer_layout().count());
  }
}

TEST(Lstm, HeteroFLsScalerDividesEachLayersOutputsByTheKeptFraction) {
  for (const DataShape& shape : {kNext, kClasses}) {
    const Model model = make(small(), shape);
    const Submodel submodel = select(*model.layout, 0.3, Choice::random);
    const std::vector<double> scales{7.0 / 3, 20.0 / 6, 13.0 / 4};
    expect_equals_pytorch(model, sliced(model, full_values(model), submodel), 6, true, scales,
                          "scaler");
    // In evaluation, and where nothing is cut, there is none.
    const Parameters part = sliced(model, full_values(model), submodel);
    const at::Tensor x = texts(3, shape);
    EXPECT_TRUE(same_bits(run(model, part, x, Mode::evaluate, nullptr, true), run(model, part, x)));
    const Parameters full = full_values(model);
    EXPECT_TRUE(same_bits(run(model, full, x, Mode::train, nullptr, true), run(model, full, x)));
  }
}

TEST(Lstm, GradientsOfTwoPassesAddUp) {
  for (const DataShape& shape : {kNext, kClasses}) {
    const Model model = make(small(), shape);
    Parameters p = full_values(model);
    p.attach_gradients();
    const at::Tensor x = texts(4, shape);
    const auto pass = [&] { train(model, p, x).square().sum().backward(); };
    pass();
    const at::Tensor once = p.gradients().clone();
    EXPECT_GT(once.abs().max().item<double>(), 0.1);
    pass();
    expect_close(p.gradients(), once * 2, 1e-5);
    p.zero_gradients();
    pass();
    EXPECT_TRUE(same_bits(p.gradients(), once));
  }
}

TEST(Lstm, FrozenWeightsPassTheSameGradientToTheirInput) {
  const Model model = make(small({{"layers", "1"}, {"hidden", "6"}}), kNext);
  const auto gradient = [&](bool frozen) {
    Parameters p = full_values(model);
    if (!frozen) p.attach_gradients();
    const Named v(model, p);
    const at::Tensor x = images(3, {5, 7}).requires_grad_();
    const int input = entry_named(model, "lstm.weight_ih_l0");
    const int hidden = entry_named(model, "lstm.weight_hh_l0");
    const LstmWeights weights{p.weight(input), p.weight(hidden), v["lstm.bias_ih_l0"],
                              v["lstm.bias_hh_l0"]};
    lstm(x, weights, 1, 0.5).square().sum().backward();
    EXPECT_EQ(v["lstm.weight_ih_l0"].grad().defined(), !frozen);
    EXPECT_EQ(v["lstm.bias_ih_l0"].grad().defined(), !frozen);
    return x.grad();
  };
  const at::Tensor trained = gradient(false);
  EXPECT_GT(largest(trained), 1e-3);
  EXPECT_TRUE(same_bits(gradient(true), trained));
}

TEST(Lstm, ASecondBackwardPassOfOneGraphIsRefused) {
  // The first overwrites the gates by their gradients.
  const Model model = make(small(), kNext);
  Parameters p = full_values(model);
  p.attach_gradients();
  const at::Tensor loss = train(model, p, texts(2, kNext)).sum();
  loss.backward({}, /*retain_graph=*/true);
  EXPECT_THROW(loss.backward(), c10::Error);
}

TEST(Lstm, ALaterTokenChangesNoEarlierLogit) {
  const Model model = make(small(), kNext);
  const Parameters p = full_values(model);
  const at::Tensor x = texts(2, kNext);
  const at::Tensor before = run(model, p, x);
  for (const std::int64_t changed : {1, 5, 10}) {
    at::Tensor other = x.clone();
    other.select(1, changed).add_(1).remainder_(kNext.vocabulary);
    const at::Tensor after = run(model, p, other);
    EXPECT_TRUE(after.narrow(1, 0, changed).equal(before.narrow(1, 0, changed)));
    EXPECT_FALSE(after.narrow(1, changed, 1).equal(before.narrow(1, changed, 1)));
  }
  const at::Tensor start = run(model, p, x.narrow(1, 0, 6).contiguous());
  expect_close(start, before.narrow(1, 0, 6), kClose);
  // The class of a text is the last step's.
  const Model classes = make(small(), {{11}, 23, 23, false});
  expect_close(run(classes, full_values(classes), x), before.select(1, 10), kClose);
}

TEST(Lstm, HasTheParametersAndNamesOfPyTorchsModules) {
  const Model leaf = make({{"name", "lstm"}, {"embed", "8"}, {"hidden", "256"}}, {{80}, 80, 80});
  const std::int64_t first = 4 * 256 * (8 + 256 + 2), second = 4 * 256 * (256 + 256 + 2);
  EXPECT_EQ(trainable_count(leaf), 80 * 8 + first + second + 80 * 257);
  std::vector<std::string> names;
  for (const Entry& entry : leaf.layout->entries) names.push_back(entry.name);
  EXPECT_EQ(names,
            (std::vector<std::string>{"embedding.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0",
                                      "lstm.bias_ih_l0", "lstm.bias_hh_l0", "lstm.weight_ih_l1",
                                      "lstm.weight_hh_l1", "lstm.bias_ih_l1", "lstm.bias_hh_l1",
                                      "fc.weight", "fc.bias"}));
  const Parameters p = full_values(leaf);
  for (std::size_t e = 1; e < names.size(); ++e) {
    const double largest = p[static_cast<int>(e)].abs().max().item<double>();
    EXPECT_LE(largest, 1.0 / 16) << names[e];  // 1 / sqrt(256)
    EXPECT_GT(largest, 0.9 / 16) << names[e];
  }
  EXPECT_NEAR(p[0].std().item<double>(), 1, 0.15);  // of 640 normal values
}

TEST(Lstm, FlopsMatchTheSumByHand) {
  const std::int64_t batch = 3, steps = 11;
  const auto layer = [&](std::int64_t in, std::int64_t units) {
    // Products of every step's input and of the outputs before all steps but the first, the bias,
    // four gates, and for each cell and output three products, a sum and a tanh.
    return 4 * units * (steps * (2 * in + 1) + (steps - 1) * 2 * units) + steps * 9 * units;
  };
  for (const DataShape& shape : {kNext, kClasses}) {
    const Model model = make(small(), shape);
    const std::int64_t head = shape.targets() * shape.classes * (2 * 13 + 1);
    const TrainingCost cost = training_cost(model, Submodel::full(*model.layout), batch, 0);
    EXPECT_EQ(cost.forward_flops, batch * (layer(7, 20) + layer(20, 13) + head));
    EXPECT_EQ(cost.step_flops, 3 * cost.forward_flops);
    // A layer saves its gates, cells and outputs; the next layer's input is these outputs.
    EXPECT_EQ(cost.blocks[1].saved_bytes, 4 * batch * steps * (6 * 20 + 7));
    EXPECT_EQ(cost.blocks[2].saved_bytes, 4 * batch * steps * 6 * 13);
  }
}

TEST(Lstm, RefusesSizesThatDoNotFit) {
  EXPECT_THROW(make(small({{"layers", "3"}}), kNext), InputError);
  EXPECT_THROW(make(small({{"exits", "3"}}), kNext), InputError);
  EXPECT_THROW(make(small({{"hidden", "8.5"}}), kNext), InputError);
  EXPECT_THROW(make(small(), {{1, 28, 28}, 10}), InputError);
}

}  // namespace
}  // namespace espalier
