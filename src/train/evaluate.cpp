#include "espalier/train/evaluate.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <numeric>

namespace espalier {
namespace {

std::vector<std::int64_t> batch_indices(std::int64_t batch, std::int64_t size, std::int64_t total,
                                        std::int64_t stride) {
  const std::int64_t begin = batch * size;
  std::vector<std::int64_t> indices(static_cast<std::size_t>(std::min(size, total - begin)));
  for (std::size_t i = 0; i < indices.size(); ++i) {
    indices[i] = (begin + static_cast<std::int64_t>(i)) * stride;
  }
  return indices;
}

}  // namespace

void declare_evaluation_options(OptionTable& table) {
  table.add({"record.evaluate_every", OptionType::integer, "1",
             "evaluate the global model every so many rounds; the last version always", "rounds", 1,
             1e12});
  table.add({"record.evaluate_batch", OptionType::integer, "500",
             "samples in an evaluation batch; part of the result's last bits", "", 1, 1e6});
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
  const at::Tensor logits = all_logits.flatten(0, -2);
  const at::Tensor labels = all_labels.flatten();
  EvaluationSums sums;
  sums.samples = labels.numel();
  sums.loss = at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum).item<double>();
  // A sample counts within the top k if fewer than k classes have a larger logit, or an equal one
  // at a lower index; a logit that is not a number never counts.
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
  for (std::size_t exit = 1; exit < model.exits.size(); ++exit) {
    names.push_back(formatted("exit {}", exit));
  }
  names.push_back("mean of exits");
  return names;
}

std::vector<EvaluationSums> evaluate_batch(const Experiment& experiment, const EvaluationPlan& plan,
                                           const Parameters& model_values, std::int64_t batch) {
  c10::NoGradGuard no_grad;
  const auto indices = batch_indices(batch, plan.batch, plan.test_samples, 1);
  const at::Tensor labels = experiment.data.test->labels(indices);
  std::vector<at::Tensor> exits;
  Context context;
  context.mode = Mode::evaluate;
  context.exits = &exits;
  const at::Tensor logits =
      forward(experiment.model, model_values, experiment.data.test->inputs(indices), context);
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

std::vector<float> calibrate_batch(const Experiment& experiment, const EvaluationPlan& plan,
                                   const Parameters& model_values, std::int64_t batch) {
  c10::NoGradGuard no_grad;
  // Spread over all that is trained on, so that clients or classes in order give no skewed batch.
  const auto samples = experiment.partition->in_training();
  const std::int64_t stride = static_cast<std::int64_t>(samples.size()) / plan.calibration_samples;
  auto indices = batch_indices(batch, plan.batch, plan.calibration_samples, stride);
  for (std::int64_t& index : indices) index = samples[static_cast<std::size_t>(index)];
  const Layout& layout = *experiment.model.layout;
  std::vector<at::Tensor> statistics(layout.entries.size());
  Context context;
  context.mode = Mode::calibrate;
  context.statistics = &statistics;
  forward(experiment.model, model_values, experiment.data.train->inputs(indices), context);
  std::vector<float> values;
  for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
    if (layout.entries[entry].kind != Kind::statistic) continue;
    ESPALIER_CHECK(statistics[entry].defined(), "{} got no value", layout.entries[entry].name);
    const at::Tensor flat = statistics[entry].contiguous();
    const float* data = flat.const_data_ptr<float>();
    values.insert(values.end(), data, data + flat.numel());
  }
  return values;
}

void set_statistics(Parameters& model_values, const std::vector<std::vector<float>>& batches) {
  if (batches.empty()) return;
  std::size_t position = 0;
  const Layout& layout = model_values.geometry().layout();
  for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
    if (layout.entries[entry].kind != Kind::statistic) continue;
    const Geometry::Place& place = model_values.geometry().place(static_cast<int>(entry));
    for (std::int64_t i = 0; i < place.count; ++i, ++position) {
      double sum = 0;
      for (const auto& values : batches) sum += values[position];
      model_values.data()[place.offset + i] =
          static_cast<float>(sum / static_cast<double>(batches.size()));
    }
  }
  ESPALIER_CHECK(position == batches.front().size(), "statistics of another model");
}

}  // namespace espalier
