#pragma once
// Evaluation and norm calibration, one fixed batch at a time: what a batch gives depends on the
// model and the batch alone, so shards can run on any rank and are combined in batch order.

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/train/experiment.h"

namespace espalier {

/// Sums over the labels of one evaluation batch: a sample has one, or a text one at each position.
struct EvaluationSums {
  std::int64_t samples = 0;
  double loss = 0;
  std::int64_t top1 = 0;
  std::int64_t top5 = 0;
};

/// record.evaluate_batch, data.calibration: sizes of the fixed batches.
struct EvaluationPlan {
  std::int64_t batch = 500;
  std::int64_t test_samples = 0;
  std::int64_t calibration_samples = 0;  ///< 0: the model has no statistics

  std::int64_t test_batches() const { return (test_samples + batch - 1) / batch; }
  std::int64_t calibration_batches() const { return (calibration_samples + batch - 1) / batch; }
};
void declare_evaluation_options(OptionTable& table);
EvaluationPlan evaluation_plan(const Config& config, const Experiment& experiment);

/// Of logits [..., classes] and labels [...].
EvaluationSums score(const at::Tensor& logits, const at::Tensor& labels);

/// What an evaluation tells about, by name: the head ("test") and, of a model with further
/// classifiers, each of them ("exit 1", ...) and the mean of all their logits ("mean of exits").
std::vector<std::string> evaluated_sets(const Model& model);
/// `model_values`: a full model in evaluation (statistics in place). One item for each of these
/// sets.
std::vector<EvaluationSums> evaluate_batch(const Experiment& experiment, const EvaluationPlan& plan,
                                           const Parameters& model_values, std::int64_t batch);

/// Values of all statistic entries for one calibration batch, concatenated in entry order.
std::vector<float> calibrate_batch(const Experiment& experiment, const EvaluationPlan& plan,
                                   const Parameters& model_values, std::int64_t batch);
/// Mean over batches, in batch order and double precision, into the statistic entries of
/// `model_values`.
void set_statistics(Parameters& model_values, const std::vector<std::vector<float>>& batches);

}  // namespace espalier
