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
  /// As equal in size as they can be, for each is normalised by its own statistics.
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

/// Of each norm of the layout, in its order, one calibration batch's moments: the number of values
/// of a channel, the channels' means, and their sums of squared differences from these.
std::vector<double> calibrate_batch(const Experiment& experiment, const EvaluationPlan& plan,
                                    const Parameters& model_values, std::int64_t batch);
/// Mean and unbiased variance (PyTorch's running_var) of all values of all batches into the
/// statistic entries of `model_values`. The batches may differ in size; they are combined in their
/// order in double precision (Chan, Golub and LeVeque 1979).
void set_statistics(Parameters& model_values, const std::vector<std::vector<double>>& batches);

/// Norm statistics at their first values, mean 0 and variance 1, are those of no version.
void forget_statistics(Parameters& model_values);
/// Whether the model has statistics, and they are those of no version.
bool lacks_statistics(const Parameters& model_values);
/// From a model of the same buffer_layout.
void copy_statistics(const Parameters& from, Parameters& to);

}  // namespace espalier
