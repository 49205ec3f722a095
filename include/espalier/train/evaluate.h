#pragma once
// Evaluation and norm calibration, one fixed batch at a time. The result of a batch depends only on
// the model and the batch, so shards can run on any rank. They are combined in batch order.

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/train/experiment.h"

namespace espalier {

/// Sums over the labels of one evaluation batch. A sample has one label; a text has one label at
/// each position.
struct EvaluationSums {
  std::int64_t samples = 0;
  double loss = 0;
  std::int64_t top1 = 0;
  std::int64_t top5 = 0;

  EvaluationSums& operator+=(const EvaluationSums& more) {
    samples += more.samples;
    loss += more.loss;
    top1 += more.top1;
    top5 += more.top5;
    return *this;
  }
};

/// record.evaluate_batch, data.calibration: sizes of the fixed batches.
struct EvaluationPlan {
  std::int64_t batch = 500;
  std::int64_t test_samples = 0;
  std::int64_t calibration_samples = 0;  ///< 0: the model has no statistics

  std::int64_t test_batches() const { return (test_samples + batch - 1) / batch; }
  /// Of equal size up to one sample, because each is normalised by its own statistics.
  std::int64_t calibration_batches() const { return (calibration_samples + batch - 1) / batch; }
};
void declare_evaluation_options(OptionTable& table);
EvaluationPlan evaluation_plan(const Config& config, const Experiment& experiment);

/// The sums for logits [..., classes] and labels [...], without those that are kNoLabel.
EvaluationSums score(const at::Tensor& logits, const at::Tensor& labels);

/// The names of the evaluated predictions: the head ("test"); for a model with several classifiers
/// also each of the others ("exit 1", ...) and the mean of all their logits ("mean of exits"). Of
/// an ensemble: the mean of all members' logits ("test"), and of the first k's ("mean of 1", ...).
std::vector<std::string> evaluated_sets(const Model& model);
/// The sums of each of these sets. `model_values`: a full model with its norm statistics.
std::vector<EvaluationSums> evaluate_batch(const Experiment& experiment, const EvaluationPlan& plan,
                                           const Parameters& model_values, std::int64_t batch);

/// The moments of one calibration batch, for each norm in the order of the layout: the number of
/// values of a channel, the mean of each channel, and its sum of squared differences from the mean.
std::vector<double> calibrate_batch(const Experiment& experiment, const EvaluationPlan& plan,
                                    const Parameters& model_values, std::int64_t batch);
/// Sets the statistic entries of `model_values` to mean and unbiased variance (PyTorch's
/// running_var) of all values of all batches. The batches may differ in size. They are combined in
/// their order in double precision (Chan, Golub and LeVeque 1979).
void set_statistics(Parameters& model_values, const std::vector<std::vector<double>>& batches);

/// Sets norm statistics to mean 0 and variance 1, which stand for statistics that are not computed.
void forget_statistics(Parameters& model_values);
/// Whether the model has norm statistics and all are mean 0 and variance 1.
bool lacks_statistics(const Parameters& model_values);
/// Copies the norm statistics. Both models have the same buffer layout.
void copy_statistics(const Parameters& from, Parameters& to);

}  // namespace espalier
