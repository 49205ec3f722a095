#pragma once
// Workers and hosts that exchange whole models. Each job of a worker brings the model, the first of
// a round or the mean of its cluster, and trains it for the batches of an iteration; its answer is
// the model. The optimiser and the order of the samples go on from one iteration to the next. The
// host answers the models of its workers with their mean, which it has at the end of the round.

#include <memory>
#include <span>

#include "espalier/protocol/split/bottom.h"
#include "espalier/protocol/split/top.h"

namespace espalier::split {

class ModelWorker final : public WorkerPart {
 public:
  using WorkerPart::WorkerPart;
  /// The mean replaces the weights.
  void replace(const Bytes& weights);
  /// One batch.
  void train();
  Stepper::Output answer(bool is_last);

 private:
  LocalObjective objective_;
  double loss_sum_ = 0;  // since the last answer
};

class ModelHost final : public Host {
 public:
  void begin(const TopTask& task, const Bytes& weights) override;
  /// `models`: dense, one after the other.
  Stepper::Output step(const TopTask& task, const Bytes& models) override;
  Stepper::Output finish() override;

 private:
  std::shared_ptr<MemoryAccount> account_;
  SharedBytes mean_;
};

/// The mean of models of equal size, one after the other, with these weights: sums in double
/// precision, in order, divided by the sum of the weights and rounded once.
Bytes mean_of(std::span<const float> models, std::span<const double> weights);

/// Adds the jobs and the residents of both. All arguments must outlive them.
void add_model_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                    std::shared_ptr<const Parts> parts);

}  // namespace espalier::split
