// Norm statistics from the moments of batches.

#include "espalier/train/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>

namespace espalier {
namespace {

/// Two batch norms, of 3 and 2 channels, with trainable entries before, between and after them.
Parameters two_norms() {
  Layout layout;
  const int block = layout.add_block("block");
  for (const std::int64_t width : {3, 2}) {
    const Dimension channels = Layout::constant(width);
    const std::string name = formatted("norm{}", width);
    layout.add_entry({name + ".weight", Kind::trainable, block, {channels}, {}});
    layout.add_entry({name + ".running_mean", Kind::statistic, block, {channels}, {}});
    layout.add_entry({name + ".running_var", Kind::statistic, block, {channels}, {}});
  }
  auto shared = std::make_shared<const Layout>(std::move(layout));
  const Submodel full = Submodel::full(*shared);
  Parameters model(std::make_shared<const BufferLayout>(shared, full, Packing::aligned));
  std::fill_n(model.data(), model.buffer_layout().size(), 7.0f);
  return model;
}

std::vector<float> entry(const Parameters& model, int index) {
  const BufferLayout::Place& place = model.buffer_layout().place(index);
  return {model.data() + place.offset, model.data() + place.offset + place.count};
}

/// Value i of a channel.
double value(std::size_t channel, int i) {
  return 3 * std::sin(1.7 * i + 0.3 * static_cast<double>(channel)) + 0.02 * i +
         static_cast<double>(channel);
}

/// Moments of the values [begin, end) of `channels` channels, the first of which is `first`.
void append_moments(std::vector<double>& moments, std::size_t first, std::size_t channels,
                    int begin, int end) {
  std::vector<double> squares;
  moments.push_back(end - begin);
  for (std::size_t channel = first; channel < first + channels; ++channel) {
    double mean = 0, square = 0;
    for (int i = begin; i < end; ++i) mean += value(channel, i) / (end - begin);
    for (int i = begin; i < end; ++i) square += std::pow(value(channel, i) - mean, 2);
    moments.push_back(mean);
    squares.push_back(square);
  }
  moments.insert(moments.end(), squares.begin(), squares.end());
}

TEST(NormStatistics, CoverAllValuesForAnySizesOfBatches) {
  constexpr int kValues = 90;
  for (const std::vector<int>& cuts :
       {std::vector<int>{0, 90}, {0, 89, 90}, {0, 1, 2, 50, 51, 90}, {0, 30, 60, 90}}) {
    std::vector<std::vector<double>> batches;
    for (std::size_t b = 0; b + 1 < cuts.size(); ++b) {
      append_moments(batches.emplace_back(), 0, 3, cuts[b], cuts[b + 1]);
      append_moments(batches.back(), 3, 2, cuts[b], cuts[b + 1]);
    }
    Parameters model = two_norms();
    set_statistics(model, batches);
    for (std::size_t channel = 0; channel < 5; ++channel) {
      double mean = 0, variance = 0;
      for (int i = 0; i < kValues; ++i) mean += value(channel, i) / kValues;
      for (int i = 0; i < kValues; ++i) {
        variance += std::pow(value(channel, i) - mean, 2) / (kValues - 1);
      }
      const int first = channel < 3 ? 1 : 4;
      const std::size_t at = channel < 3 ? channel : channel - 3;
      EXPECT_FLOAT_EQ(entry(model, first)[at], static_cast<float>(mean));
      EXPECT_FLOAT_EQ(entry(model, first + 1)[at], static_cast<float>(variance));
    }
    EXPECT_EQ(entry(model, 0), std::vector<float>(3, 7)) << "weights stay";
  }
}

TEST(NormStatistics, OneValueHasNoVariance) {
  Parameters model = two_norms();
  set_statistics(model, {{1, 4, 5, 6, 0, 0, 0, 1, 8, 9, 0, 0}});
  EXPECT_EQ(entry(model, 1), (std::vector<float>{4, 5, 6}));
  EXPECT_EQ(entry(model, 5), (std::vector<float>{0, 0}));
}

TEST(NormStatistics, AreLackingOnlyAtTheirInitialValues) {
  Parameters model = two_norms();
  EXPECT_FALSE(lacks_statistics(model));
  forget_statistics(model);
  EXPECT_TRUE(lacks_statistics(model));
  EXPECT_EQ(entry(model, 3), std::vector<float>(2, 7)) << "weights stay";
  Parameters known = two_norms();
  set_statistics(known, {{4, 0, 0, 0, 3, 3, 3, 4, 0, 0, 3, 3.5}});  // mean 0, variances 1 but one
  EXPECT_FALSE(lacks_statistics(known));
  copy_statistics(known, model);
  for (const int index : {1, 2, 4, 5}) EXPECT_EQ(entry(model, index), entry(known, index));

  Layout plain;
  plain.add_entry({"weight", Kind::trainable, plain.add_block("block"), {Layout::constant(2)}, {}});
  const auto shared = std::make_shared<const Layout>(std::move(plain));
  const Submodel full = Submodel::full(*shared);
  EXPECT_FALSE(lacks_statistics(
      Parameters(std::make_shared<const BufferLayout>(shared, full, Packing::aligned))))
      << "none are needed";
}

TEST(Evaluation, LeavesOutTokensWithoutALabel) {
  // Logits of 0 for all four tokens but one: the loss of a right guess is ln(3 + e^a) - a.
  const double a = 2;
  at::Tensor logits = at::zeros({2, 3, 4});
  for (int window = 0; window < 2; ++window)
    for (int place = 0; place < 3; ++place) logits[window][place][place] = a;
  const at::Tensor labels = at::tensor({0, 1, 2, 1, 1, 2}, at::kLong).view({2, 3});
  const double right = std::log(3 + std::exp(a)) - a, wrong = std::log(3 + std::exp(a));
  EvaluationSums sums = score(logits, labels);
  EXPECT_EQ(sums.samples, 6);
  EXPECT_NEAR(sums.loss, 5 * right + wrong, 1e-5);
  labels[1][0] = kNoLabel;
  labels[1][1] = kNoLabel;
  sums = score(logits, labels);
  EXPECT_EQ(sums.samples, 4);
  EXPECT_NEAR(sums.loss, 4 * right, 1e-5);
  EXPECT_EQ(sums.top1, 4);
}

TEST(Evaluation, OfHiddenTokensIsTheirLoss) {
  OptionTable table;
  declare_data_options(table);
  declare_model_options(table);
  table.add({"run.seed", OptionType::integer, "1", "h"});
  Config config(table);
  config.read_text(
      "[data]\nname = synthetic\nsynthetic_samples = 60\nsynthetic_vocabulary = 20\nlength = 12\n"
      "synthetic_labels = next_token\nmask_rate = 0.25\n"
      "[model]\nname = encoder\ndepth = 1\nembed = 16\nheads = 2\n",
      "the test");
  Experiment e;
  e.data = load_dataset(config);
  e.model = build_model(config, e.data.shape);
  Parameters model(std::make_shared<const BufferLayout>(
      e.model.layout, Submodel::full(*e.model.layout), Packing::aligned));
  initialise(model, 1);
  const std::int64_t tests = e.data.test->size();
  const EvaluationPlan plan{.batch = 5, .test_samples = tests};
  EvaluationSums all;
  for (std::int64_t batch = 0; batch < plan.test_batches(); ++batch) {
    const EvaluationSums sums = evaluate_batch(e, plan, model, batch).front();
    all.samples += sums.samples;
    all.loss += sums.loss;
  }
  // Sample by sample, from the definition of the loss.
  double loss = 0;
  for (std::int64_t sample = 0; sample < tests; ++sample) {
    const Batch one = e.data.test->batch(std::vector{sample});
    Context context;
    const at::Tensor logits =
        forward(e.model, model, one.inputs, context).detach().to(at::kDouble).squeeze(0);
    for (std::int64_t i = 0; i < 3; ++i) {
      double sum = 0;
      for (std::int64_t token = 0; token < 20; ++token) {
        sum += std::exp(logits[i][token].item<double>());
      }
      loss += std::log(sum) - logits[i][one.labels[0][i].item<std::int64_t>()].item<double>();
    }
  }
  EXPECT_EQ(all.samples, 3 * tests);
  // Each of the terms, of about 3, has a relative error of a few roundings of 2^-24.
  EXPECT_NEAR(all.loss, loss, 1e-6 * loss);
}

}  // namespace
}  // namespace espalier
