// A classification task without files: sample = mean of its class + noise, both standard normal per
// value. Every value comes from a keyed stream, so any rank makes the same data.

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "splits.h"

namespace espalier {
namespace {

// The first key of the streams.
enum Part : std::uint64_t { kTrain = 0, kTest = 1, kMeans = 2 };

std::unique_ptr<Split> make_split(const DataShape& shape, std::int64_t count, std::uint64_t seed,
                                  Part part, double noise,
                                  const std::vector<std::vector<float>>& means) {
  std::vector<float> values;
  std::vector<std::int32_t> labels;
  values.reserve(static_cast<std::size_t>(count) * means[0].size());
  for (std::int64_t i = 0; i < count; ++i) {
    Stream stream(seed, purpose("data.synthetic"), part, static_cast<std::uint64_t>(i));
    labels.push_back(static_cast<std::int32_t>(i % shape.classes));
    for (const float mean : means[static_cast<std::size_t>(labels.back())]) {
      values.push_back(static_cast<float>(mean + noise * stream.normal()));
    }
  }
  return make_value_split<float>(shape.sample, std::move(values), std::move(labels));
}

void declare(OptionTable& table) {
  table.add({.key = "data.synthetic_samples",
             .type = OptionType::integer,
             .default_value = "2000",
             .help = "Training samples of the synthetic data; the test set has a fifth as many.",
             .minimum = 1});
  table.add({.key = "data.synthetic_classes",
             .type = OptionType::integer,
             .default_value = "10",
             .help = "Classes of the synthetic data.",
             .minimum = 2});
  table.add(
      {.key = "data.synthetic_shape",
       .type = OptionType::real_list,
       .default_value = "1, 28, 28",
       .help = "Shape of one synthetic sample: channels, height, width, or one number of values."});
  table.add(
      {.key = "data.synthetic_noise",
       .type = OptionType::real,
       .default_value = "1",
       .help = "Standard deviation of the noise around the class means, which themselves have 1.",
       .minimum = 0});
}

DataShape synthetic_shape(const Config& config) {
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
  const DataShape shape = synthetic_shape(config);
  const auto seed = static_cast<std::uint64_t>(config.integer("run.seed"));
  const double noise = config.real("data.synthetic_noise");
  std::int64_t per_sample = 1;
  for (const std::int64_t extent : shape.sample) per_sample *= extent;
  std::vector<std::vector<float>> means(static_cast<std::size_t>(shape.classes));
  for (std::size_t c = 0; c < means.size(); ++c) {
    Stream stream(seed, purpose("data.synthetic"), kMeans, c);
    for (std::int64_t i = 0; i < per_sample; ++i)
      means[c].push_back(static_cast<float>(stream.normal()));
  }
  const std::int64_t samples = config.integer("data.synthetic_samples");
  const std::int64_t tests = std::max(shape.classes, samples / 5);
  Dataset dataset{"synthetic", shape, nullptr, nullptr, {}};
  dataset.train = make_split(shape, limited(samples, config.integer("data.train_limit")), seed,
                             kTrain, noise, means);
  dataset.test = make_split(shape, limited(tests, config.integer("data.test_limit")), seed, kTest,
                            noise, means);
  return dataset;
}

}  // namespace

DataSource synthetic_source() { return {declare, synthetic_shape, load}; }

}  // namespace espalier
