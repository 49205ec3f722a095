#pragma once
// The training loop of one endpoint: weights, optimiser, the order in which its samples are seen,
// and one batch after the other. What is minimised is an objective's matter, and where the weights
// come from and go to is the caller's.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/comm/mailbox.h"
#include "espalier/train/experiment.h"
#include "espalier/train/objective.h"
#include "espalier/train/optimizer.h"

namespace espalier {

/// The kinds of entries that payloads carry.
inline constexpr unsigned kTrained = 1u << static_cast<unsigned>(Kind::trainable);
/// Those of them that a search freezes.
inline constexpr unsigned kFrozen = 1u << static_cast<unsigned>(Kind::frozen);

/// Number of bytes of a message's payload: the trained values, dense.
std::int64_t payload_bytes(const BufferLayout& dense);
/// The trained values of `dense`, a submodel of the model's, packed as they travel.
std::shared_ptr<Bytes> pack_payload(PlanCache& plans, const Parameters& model,
                                    const BufferLayout& dense);

class Trainer {
 public:
  /// Of the samples of `client`, in the order of its `nth_task`-th task. `experiment` must outlive
  /// the trainer.
  Trainer(const Experiment& experiment, std::int64_t client, std::int64_t nth_task,
          std::int64_t base_version);

  /// Takes the weights of a payload of `submodel`, placed as `layout` has them: that of the
  /// experiment's model, or one with frozen entries. The optimiser before them is gone.
  void place(const std::shared_ptr<const Layout>& layout, const Submodel& submodel,
             const Bytes& payload);
  /// Allocates gradients and a new optimiser for these weights; the mean loss starts again.
  void attach_optimizer();
  /// Trains the next batch, in all its parts: the gradients of the parts add up to that of the
  /// batch's mean.
  void train_batch(LocalObjective& objective, const LocalTask& task);
  /// Gives weights and optimiser back; the order of samples stays.
  void release();

  Parameters& parameters() { return parameters_; }
  Optimizer& optimizer() { return *optimizer_; }
  std::int64_t batch() const { return batch_; }
  double lr() const { return lr_; }
  /// Batches trained so far, and the samples in them, counting repeats.
  std::int64_t steps() const { return steps_; }
  std::int64_t samples() const { return samples_; }
  /// Over the samples trained with this optimiser; 0 if there are none.
  double mean_loss() const {
    return loss_samples_ == 0 ? 0 : loss_sum_ / static_cast<double>(loss_samples_);
  }

 private:
  std::span<const std::int64_t> next_batch();

  const Experiment& experiment_;
  std::int64_t client_;
  std::int64_t nth_task_;
  std::int64_t batch_;
  double lr_;
  Parameters parameters_;
  std::optional<Optimizer> optimizer_;
  std::vector<std::int64_t> order_;  // of the current epoch
  std::int64_t epoch_ = 0;
  std::int64_t position_ = 0;  // in it
  std::int64_t steps_ = 0;
  std::int64_t samples_ = 0;
  double loss_sum_ = 0;  // with this optimiser
  std::int64_t loss_samples_ = 0;
};

}  // namespace espalier
