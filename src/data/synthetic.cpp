// Data without files. Every value comes from a keyed stream, so every rank makes the same data.
// Values: mean of the class + noise, both standard normal. Tokens of a class: drawn from its own
// distribution. Next token: a Markov chain of known entropy.

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "splits.h"

namespace espalier {
namespace {

const Purpose kSynthetic = register_purpose("data.synthetic");

// The first key of the streams.
enum Part : std::int64_t { kTrain = 0, kTest = 1, kMeans = 2, kSuccessors = 3 };

struct Task {
  std::int64_t seed;
  DataShape shape;
  double noise;
  Stream stream(Part part, std::int64_t item) const { return {seed, kSynthetic, part, item}; }
  std::int32_t label(std::int64_t sample) const {
    return static_cast<std::int32_t>(sample % shape.classes);
  }
};

std::vector<std::int32_t> labels_of(const Task& task, std::int64_t count) {
  std::vector<std::int32_t> labels;
  for (std::int64_t i = 0; i < count; ++i) labels.push_back(task.label(i));
  return labels;
}

/// Standard normal numbers for each class: means of values, log-odds of tokens.
std::vector<std::vector<float>> class_numbers(const Task& task, std::int64_t count) {
  std::vector<std::vector<float>> numbers(static_cast<std::size_t>(task.shape.classes));
  for (std::size_t c = 0; c < numbers.size(); ++c) {
    Stream stream = task.stream(kMeans, static_cast<std::int64_t>(c));
    for (std::int64_t i = 0; i < count; ++i) {
      numbers[c].push_back(static_cast<float>(stream.normal()));
    }
  }
  return numbers;
}

std::unique_ptr<Split> make_values(const Task& task, Part part, std::int64_t count) {
  std::int64_t per_sample = 1;
  for (const std::int64_t extent : task.shape.sample) per_sample *= extent;
  const auto means = class_numbers(task, per_sample);
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(count * per_sample));
  for (std::int64_t i = 0; i < count; ++i) {
    Stream stream = task.stream(part, i);
    for (const float mean : means[static_cast<std::size_t>(task.label(i))]) {
      values.push_back(static_cast<float>(mean + task.noise * stream.normal()));
    }
  }
  return make_value_split<float>(task.shape.sample, std::move(values), labels_of(task, count));
}

/// Token t of class c has a probability in proportion to exp(z / noise), z standard normal.
std::unique_ptr<Split> make_tokens(const Task& task, Part part, std::int64_t count) {
  std::vector<std::vector<double>> until;  // cumulative, of each class
  for (const auto& logits : class_numbers(task, task.shape.vocabulary)) {
    const float largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    std::vector<double>& own = until.emplace_back();
    for (const float logit : logits) {
      sum += logit == largest ? 1 : std::exp((logit - largest) / task.noise);
      own.push_back(sum);
    }
  }
  const std::int64_t length = task.shape.sample[0];
  std::vector<std::int32_t> tokens;
  tokens.reserve(static_cast<std::size_t>(count * length));
  for (std::int64_t i = 0; i < count; ++i) {
    Stream stream = task.stream(part, i);
    const std::vector<double>& own = until[static_cast<std::size_t>(task.label(i))];
    for (std::int64_t t = 0; t < length; ++t) {
      const double draw = stream.uniform() * own.back();
      const auto token = std::upper_bound(own.begin(), own.end() - 1, draw);
      tokens.push_back(static_cast<std::int32_t>(token - own.begin()));
    }
  }
  return make_value_split<std::int32_t>(task.shape.sample, std::move(tokens),
                                        labels_of(task, count));
}

constexpr std::int64_t kChoices = 4;

/// One of four others follows each token, with probabilities 1/2, 1/4, 1/8, 1/8. The entropy is
/// 1.75 bits a token, so the lowest possible perplexity is 2^1.75 = 3.364.
std::unique_ptr<Split> make_chains(const Task& task, Part part, std::int64_t count) {
  std::vector<std::array<std::int64_t, kChoices>> successors;
  for (std::int64_t token = 0; token < task.shape.vocabulary; ++token) {
    Stream stream = task.stream(kSuccessors, token);
    std::vector<std::int64_t> chosen = stream.choose(kChoices, task.shape.vocabulary);
    stream.shuffle(chosen);
    std::copy_n(chosen.begin(), kChoices, successors.emplace_back().begin());
  }
  const std::int64_t stride = task.shape.sample[0] + 1;  // the last token is only a label
  std::vector<std::int32_t> tokens;
  tokens.reserve(static_cast<std::size_t>(count * stride));
  for (std::int64_t i = 0; i < count; ++i) {
    Stream stream = task.stream(part, i);
    std::int64_t token = stream.below(task.shape.vocabulary);
    for (std::int64_t t = 0; t < stride; ++t) {
      tokens.push_back(static_cast<std::int32_t>(token));
      const std::int64_t draw = stream.below(8);
      token = successors[static_cast<std::size_t>(token)][draw < 4 ? 0 : draw < 6 ? 1 : draw - 4];
    }
  }
  auto owner = std::make_shared<const std::vector<std::int32_t>>(std::move(tokens));
  const std::span<const std::int32_t> all(*owner);
  return make_window_split(token_stream(std::move(owner), all), {stride - 1, stride}, {{}}, count);
}

void declare(OptionTable& table) {
  table.add(
      {.key = "data.synthetic_samples",
       .type = OptionType::integer,
       .default_value = "2000",
       .help = "training samples of the synthetic data; the test set has a fifth of this number",
       .minimum = 1});
  table.add({.key = "data.synthetic_classes",
             .type = OptionType::integer,
             .default_value = "10",
             .help = "classes of the synthetic data",
             .minimum = 2});
  table.add(
      {.key = "data.synthetic_shape",
       .type = OptionType::real_list,
       .default_value = "1, 28, 28",
       .help = "shape of one synthetic sample: channels, height, width, or one number of values"});
  table.add({.key = "data.synthetic_noise",
             .type = OptionType::real,
             .default_value = "1",
             .help = "standard deviation of the noise around the class means, whose own deviation "
                     "is 1; with tokens, the spread of the distributions (0 = one certain token)",
             .minimum = 0});
  table.add(
      {.key = "data.synthetic_vocabulary",
       .type = OptionType::integer,
       .default_value = "0",
       .help = "number of different tokens; above 0, synthetic samples are data.length tokens",
       .minimum = 0,
       .maximum = 1e6});
  table.add_choice("data.synthetic_labels", "classes",
                   "labels of synthetic tokens: a class for each sample, or the next token, in "
                   "chains whose lowest possible perplexity is 3.364",
                   {"classes", "next_token"});
}

DataShape token_shape(const Config& config, std::int64_t vocabulary) {
  DataShape shape;
  shape.sample = {config.integer("data.length")};
  shape.vocabulary = vocabulary;
  shape.next_token = config.text("data.synthetic_labels") == "next_token";
  shape.classes = shape.next_token ? vocabulary : config.integer("data.synthetic_classes");
  if (shape.next_token && vocabulary < kChoices) {
    throw InputError(
        formatted("data.synthetic_vocabulary = {} is too small for next_token: set {} or more",
                  vocabulary, kChoices));
  }
  return shape;
}

DataShape synthetic_shape(const Config& config) {
  const std::int64_t vocabulary = config.integer("data.synthetic_vocabulary");
  if (vocabulary > 0) return token_shape(config, vocabulary);
  DataShape shape;
  shape.classes = config.integer("data.synthetic_classes");
  double values = 1;
  for (const double extent : config.reals("data.synthetic_shape")) {
    values *= extent;
    if (!(extent >= 1) || extent != std::floor(extent) || values > 1e7) values = -1;
    if (values < 0) break;
    shape.sample.push_back(static_cast<std::int64_t>(extent));
  }
  if (values < 0 || shape.sample.empty()) {
    throw InputError(
        "data.synthetic_shape must be whole numbers from 1, at most 10^7 values in all, such as 1, "
        "28, 28");
  }
  return shape;
}

Dataset load(const Config& config, const std::filesystem::path&) {
  Task task{config.integer("run.seed"), synthetic_shape(config), 0};
  if (!task.shape.next_token) task.noise = config.real("data.synthetic_noise");
  const auto make = task.shape.next_token       ? make_chains
                    : task.shape.vocabulary > 0 ? make_tokens
                                                : make_values;
  const std::int64_t samples = config.integer("data.synthetic_samples");
  const std::int64_t tests = std::max(task.shape.next_token ? 1 : task.shape.classes, samples / 5);
  Dataset dataset{"synthetic", task.shape, nullptr, nullptr, {}};
  dataset.train = make(task, kTrain, limited(samples, limits(config).train));
  dataset.test = make(task, kTest, limited(tests, limits(config).test));
  return dataset;
}

}  // namespace

DataSource synthetic_source() { return {declare, synthetic_shape, load}; }

}  // namespace espalier
