#pragma once
// The host of a cluster on a rank, for the time of a round. Its jobs: the first brings the weights,
// each further one the messages of all workers; the last one returns the weights. A top answers
// the features of the workers' batches with their gradient. (models.h: the host of whole models.)

#include <cstdint>
#include <memory>
#include <vector>

#include "espalier/device/memory.h"
#include "espalier/engine/job.h"
#include "espalier/engine/resident.h"
#include "espalier/protocol/split/parts.h"
#include "espalier/train/trainer.h"

namespace espalier::split {

inline constexpr JobKind kTopJob = job_kind("split.top");
/// Its endpoint is the number of the cluster.
inline constexpr ResidentKind kTop = job_kind("split.host");

/// A worker's features times `share`, with those of another one times 1 - share.
struct Mixture {
  std::int64_t partner = 0;
  double share = 1;
};

struct TopTask {
  enum class Kind : std::int64_t { begin, step, finish };
  Kind kind = Kind::begin;
  // With begin:
  std::int64_t version = 0;
  std::int64_t memory_bytes = 0;  ///< of the host; 0: not capped
  Bytes optimizer{};              ///< state of the optimiser, if it is kept
  // With step. The messages of the workers, one after the other, are the payload.
  std::vector<std::int64_t> samples{};  ///< of each worker
  std::vector<double> weights{};        ///< of each worker's model in their mean
  std::vector<std::int64_t> order{};    ///< in which the workers' batches are trained in turn
  std::vector<Mixture> mixtures{};      ///< of each worker, for mixup
  std::vector<std::int64_t> shape{};    ///< of one sample's features
  std::vector<std::int64_t> labels{};   ///< of all samples

  Bytes encode() const;
  static TopTask decode(const Bytes& bytes);
};

/// The payload of the answer is the gradient of the features, the mean of the models, or the
/// weights.
struct TopResult {
  std::vector<double> loss_sums;  ///< of each worker's samples, if the host knows them
  std::int64_t peak_bytes = 0;    ///< of the round so far
  Bytes optimizer{};              ///< with the weights, if it is kept

  Bytes encode() const;
  static TopResult decode(const Bytes& bytes);
};

class Host : public Resident {
 public:
  virtual void begin(const TopTask& task, const Bytes& weights) = 0;
  virtual Stepper::Output step(const TopTask& task, const Bytes& messages) = 0;
  virtual Stepper::Output finish() = 0;
  /// Rounds are repeated from their beginning.
  void archive(Archive&) override {}
};

class Top final : public Host {
 public:
  /// `experiment` and `parts` must outlive it.
  Top(const Experiment& experiment, const Parts& parts) : experiment_(experiment), parts_(parts) {}
  void begin(const TopTask& task, const Bytes& weights) override;
  /// One step on all batches, or one for each. A worker gets the gradient of the mean over
  /// its own batch.
  Stepper::Output step(const TopTask& task, const Bytes& features) override;
  Stepper::Output finish() override;

 private:
  at::Tensor train_merged(const Batch& batch, const std::vector<Range>& ranges,
                          const std::vector<Mixture>& mixtures, std::vector<double>& loss_sums);
  at::Tensor train_in_turn(const Batch& batch, const std::vector<Range>& ranges,
                           const std::vector<std::int64_t>& order, std::vector<double>& loss_sums);
  at::Tensor train_batch_by_batch(const Batch& batch, const std::vector<Range>& ranges,
                                  std::vector<double>& loss_sums);
  std::vector<double> add_gradient(const Batch& batch, const std::vector<Range>& ranges);
  void add_gradient_of_mixtures(const Batch& batch, const std::vector<Range>& ranges,
                                const std::vector<Mixture>& mixtures);
  Outputs forward(const at::Tensor& features);
  at::Tensor loss(const Batch& batch, const Outputs& outputs);

  const Experiment& experiment_;
  const Parts& parts_;
  std::shared_ptr<MemoryAccount> account_;
  std::unique_ptr<Trainer> trainer_;
  LocalObjective objective_;
};

/// Adds the jobs and the residents of tops. All arguments must outlive them.
void add_top_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                  std::shared_ptr<const Parts> parts);
/// Adds the jobs alone, of hosts of any kind.
void add_host_jobs(JobKinds& kinds, Residents& residents);

}  // namespace espalier::split
