#include "espalier/train/evaluate.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

#include "espalier/model/ensemble.h"

namespace espalier {
namespace {

/// The `count` indices begin, begin + stride, ...
std::vector<std::int64_t> strided_indices(std::int64_t begin, std::int64_t count,
                                          std::int64_t stride) {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(count));
  for (std::int64_t& index : indices) index = std::exchange(begin, begin + stride);
  return indices;
}

/// The places of a norm's statistics.
struct NormPlaces {
  BufferLayout::Place mean;
  BufferLayout::Place variance;
};

/// All norms in the order of the layout, where a norm has its mean first and then its variance.
std::vector<NormPlaces> norms_of(const BufferLayout& buffer_layout) {
  std::vector<NormPlaces> norms;
  bool is_mean = true;
  for (std::size_t entry = 0; entry < buffer_layout.layout().entries.size(); ++entry) {
    if (buffer_layout.layout().entries[entry].kind != Kind::statistic) continue;
    const BufferLayout::Place& place = buffer_layout.place(static_cast<int>(entry));
    if (is_mean) norms.push_back({place, {}});
    if (!is_mean) norms.back().variance = place;
    is_mean = !is_mean;
  }
  return norms;
}

}  // namespace

void declare_evaluation_options(OptionTable& table) {
  table.add(
      {"record.evaluate_every", OptionType::integer, "1",
       "rounds between two evaluations of the global model; the last version is always evaluated",
       "rounds", 1, 1e12, OnResume::may_change});
  table.add({.key = "record.evaluate_first",
             .type = OptionType::boolean,
             .default_value = "false",
             .help = "evaluate version 0 too, before any training",
             .on_resume = OnResume::may_change});
  table.add({"record.evaluate_batch", OptionType::integer, "500",
             "samples in an evaluation batch; changes the last bits of results", "", 1, 1e6,
             OnResume::may_change});
}

EvaluationPlan evaluation_plan(const Config& config, const Experiment& experiment) {
  EvaluationPlan plan;
  plan.batch = config.integer("record.evaluate_batch");
  plan.test_samples = experiment.data.test ? experiment.data.test->size() : 0;
  const std::int64_t calibration = config.integer("data.calibration");
  if (experiment.model.has_statistics && experiment.partition) {
    plan.calibration_samples = std::min(
        calibration, static_cast<std::int64_t>(experiment.partition->in_training().size()));
  }
  return plan;
}

EvaluationSums score(const at::Tensor& all_logits, const at::Tensor& all_labels) {
  at::Tensor logits = all_logits.flatten(0, -2);
  at::Tensor labels = all_labels.flatten();
  if (const at::Tensor scored = labels.ne(kNoLabel); !scored.all().item<bool>()) {
    const at::Tensor rows = scored.nonzero().squeeze(1);
    logits = logits.index_select(0, rows);
    labels = labels.index_select(0, rows);
  }
  EvaluationSums sums;
  sums.samples = labels.numel();
  sums.loss = at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum).item<double>();
  // A sample is in the top k if fewer than k classes have a larger logit, or an equal logit and a
  // lower index. A sample whose logit is not finite is never in the top k.
  const at::Tensor own = logits.gather(1, labels.unsqueeze(1));
  const at::Tensor earlier =
      at::arange(logits.size(1), labels.options()).unsqueeze(0) < labels.unsqueeze(1);
  const at::Tensor ahead = ((logits > own) | ((logits == own) & earlier)).sum(1);
  const at::Tensor valid = own.squeeze(1).isfinite();
  sums.top1 = ((ahead < 1) & valid).sum().item<std::int64_t>();
  sums.top5 = ((ahead < 5) & valid).sum().item<std::int64_t>();
  return sums;
}

std::vector<std::string> evaluated_sets(const Model& model) {
  std::vector<std::string> names{"test"};
  if (model.exits.size() == 1) return names;
  if (model.is_ensemble) {
    for (std::size_t k = 1; k < model.exits.size(); ++k)
      names.push_back(formatted("mean of {}", k));
    return names;
  }
  for (std::size_t exit = 1; exit < model.exits.size(); ++exit) {
    names.push_back(formatted("exit {}", exit));
  }
  names.push_back("mean of exits");
  return names;
}

std::vector<EvaluationSums> evaluate_batch(const Experiment& experiment, const EvaluationPlan& plan,
                                           const Parameters& model_values, std::int64_t batch) {
  c10::NoGradGuard no_grad;
  const std::int64_t begin = batch * plan.batch;
  const auto indices = strided_indices(begin, std::min(plan.batch, plan.test_samples - begin), 1);
  const auto [inputs, labels] = experiment.data.test->batch(indices);
  std::vector<at::Tensor> exits;
  Context context;
  context.mode = Mode::evaluate;
  context.exits = &exits;
  const at::Tensor logits = forward(experiment.model, model_values, inputs, context);
  if (experiment.model.is_ensemble) {
    exits.push_back(logits);
    const std::span<const at::Tensor> members(exits);
    std::vector<EvaluationSums> sums{score(mean_of(members), labels)};
    for (std::size_t k = 1; k < members.size(); ++k) {
      sums.push_back(score(mean_of(members.first(k)), labels));
    }
    return sums;
  }
  std::vector<EvaluationSums> sums{score(logits, labels)};
  if (exits.empty()) return sums;
  at::Tensor all = logits;
  for (const at::Tensor& exit : exits) {
    sums.push_back(score(exit, labels));
    all = all + exit;
  }
  sums.push_back(score(all / static_cast<double>(exits.size() + 1), labels));
  return sums;
}

std::vector<double> calibrate_batch(const Experiment& experiment, const EvaluationPlan& plan,
                                    const Parameters& model_values, std::int64_t batch) {
  c10::NoGradGuard no_grad;
  // The samples are spread over the whole training set, because it may be sorted by client or
  // class.
  const auto samples = experiment.partition->in_training();
  const std::int64_t stride = static_cast<std::int64_t>(samples.size()) / plan.calibration_samples;
  const auto first_of = [&](std::int64_t b) {
    return plan.calibration_samples * b / plan.calibration_batches();
  };
  auto indices =
      strided_indices(first_of(batch) * stride, first_of(batch + 1) - first_of(batch), stride);
  for (std::int64_t& index : indices) index = samples[static_cast<std::size_t>(index)];
  const Layout& layout = *experiment.model.layout;
  std::vector<at::Tensor> statistics(layout.entries.size());
  std::vector<std::int64_t> counts(layout.entries.size());
  Context context;
  context.mode = Mode::calibrate;
  context.statistics = &statistics;
  context.statistic_values = &counts;
  forward(experiment.model, model_values, experiment.data.train->inputs(indices), context);
  std::vector<double> moments;
  bool is_mean = true;
  for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
    if (layout.entries[entry].kind != Kind::statistic) continue;
    ESPALIER_CHECK(statistics[entry].defined(), "{} got no value", layout.entries[entry].name);
    const auto count = static_cast<double>(counts[entry]);
    if (is_mean) moments.push_back(count);
    // The layer computes the unbiased variance, except for a single value.
    const double factor = is_mean ? 1 : count - 1;
    const at::Tensor flat = statistics[entry].contiguous();
    const float* const data = flat.const_data_ptr<float>();
    for (std::int64_t i = 0; i < flat.numel(); ++i) moments.push_back(factor * data[i]);
    is_mean = !is_mean;
  }
  return moments;
}

void set_statistics(Parameters& model_values, const std::vector<std::vector<double>>& batches) {
  if (batches.empty()) return;
  std::size_t position = 0;  // where the moments of the norm begin in each batch
  for (const NormPlaces& norm : norms_of(model_values.buffer_layout())) {
    const auto channels = static_cast<std::size_t>(norm.mean.count);
    float* const means = model_values.data() + norm.mean.offset;
    float* const variances = model_values.data() + norm.variance.offset;
    for (std::size_t channel = 0; channel < channels; ++channel) {
      const std::size_t at = position + 1 + channel;
      double count = 0, sum = 0, squares = 0;
      for (const auto& moments : batches) {
        count += moments[position];
        sum += moments[position] * moments[at];
      }
      const double mean = sum / count;
      for (const auto& moments : batches) {
        const double difference = moments[at] - mean;
        squares += moments[at + channels] + moments[position] * difference * difference;
      }
      means[channel] = static_cast<float>(mean);
      variances[channel] = static_cast<float>(squares / std::max(1.0, count - 1));
    }
    position += 1 + 2 * channels;
  }
  ESPALIER_CHECK(position == batches.front().size(), "statistics of another model");
}

void forget_statistics(Parameters& model_values) {
  for (const NormPlaces& norm : norms_of(model_values.buffer_layout())) {
    std::fill_n(model_values.data() + norm.mean.offset, norm.mean.count, 0.0f);
    std::fill_n(model_values.data() + norm.variance.offset, norm.variance.count, 1.0f);
  }
}

bool lacks_statistics(const Parameters& model_values) {
  const auto all = [&](const BufferLayout::Place& place, float value) {
    const float* const data = model_values.data() + place.offset;
    return std::all_of(data, data + place.count, [=](float v) { return v == value; });
  };
  const std::vector<NormPlaces> norms = norms_of(model_values.buffer_layout());
  return !norms.empty() && std::ranges::all_of(norms, [&](const NormPlaces& norm) {
    return all(norm.mean, 0) && all(norm.variance, 1);
  });
}

void copy_statistics(const Parameters& from, Parameters& to) {
  for (const NormPlaces& norm : norms_of(to.buffer_layout())) {
    for (const BufferLayout::Place& place : {norm.mean, norm.variance}) {
      std::copy_n(from.data() + place.offset, place.count, to.data() + place.offset);
    }
  }
}

}  // namespace espalier
