#pragma once
// The training loop of one endpoint: weights, optimiser, the order of its samples, and one batch
// after the other. An objective defines the loss, and the caller provides and takes the weights.

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
#include "espalier/train/penalty.h"

namespace espalier {

/// Number of bytes of a message's payload: the trained values of a dense or shared layout.
std::int64_t payload_bytes(const BufferLayout& dense);
/// The payload with the trained values of `dense`, whose submodel the model contains.
std::shared_ptr<Bytes> pack_payload(PlanCache& plans, const Parameters& model,
                                    const BufferLayout& dense);

class Trainer {
 public:
  /// Trains with the samples of `client`, in the order of its task number `nth_task`. `experiment`
  /// must outlive the trainer.
  Trainer(const Experiment& experiment, std::int64_t client, std::int64_t nth_task,
          std::int64_t base_version);

  /// Sets the weights from a payload of `submodel`; personal ones become zero. `layout`: of the
  /// experiment's model, or one with frozen entries. Removes the optimiser.
  void place(const std::shared_ptr<const Layout>& layout, const Submodel& submodel,
             const Bytes& payload);
  /// Allocates gradients and a new optimiser for these weights; the mean loss starts again. Weights
  /// of the model's own layout are trained with the penalties of the settings; a search, which has
  /// frozen entries, has a loss of its own.
  void attach_optimizer();
  /// Trains the next batch, in all its parts: the gradients of the parts add up to that of the
  /// batch's mean. Returns the sum of its samples' losses.
  double train_batch(LocalObjective& objective, const LocalTask& task);
  /// The two halves of train_batch(): the gradient of the next batch, and the step along the
  /// gradient in parameters().gradients(), which may have been replaced.
  double compute_gradient(LocalObjective& objective, const LocalTask& task);
  void update();
  /// For the bottom of a split model: the forward pass of the next batch, in one part, for which
  /// the gradients are zeroed. The inputs of the result are the bottom's outputs, with their graph.
  Batch forward_batch();
  /// Frees weights and optimiser; the order of samples continues.
  void release();

  /// For endpoints that train without end (regions): goes on, with the same weights and optimiser,
  /// as in the first epoch of the client's task `nth_task`.
  void begin_task(std::int64_t nth_task);
  /// Whether the next batch begins a new epoch.
  bool is_between_epochs() const { return position_ == std::ssize(order_); }
  void set_learning_rate(double lr) { lr_ = lr; }
  /// Samples in the following batches.
  void set_batch(std::int64_t batch) { batch_ = batch; }
  /// Whether the samples left at the end of an epoch are dropped if they do not fill a batch. An
  /// epoch has one batch at least.
  void drop_last(bool drops) { drops_last_ = drops; }
  /// The place in the order of samples, not weights, optimiser and losses.
  void archive(Archive& archive);

  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }
  Optimizer& optimizer() { return *optimizer_; }
  std::int64_t batch() const { return batch_; }
  /// Batches trained so far, and the samples in them, counting repeats.
  std::int64_t steps() const { return steps_; }
  std::int64_t samples() const { return samples_; }
  /// Mean of the objective's loss, without penalties, over the samples trained with this optimiser;
  /// 0 if there are none.
  double mean_loss() const {
    return loss_samples_ == 0 ? 0 : loss_sum_ / static_cast<double>(loss_samples_);
  }

 private:
  std::span<const std::int64_t> next_batch();
  Stream batch_stream(Purpose purpose) const;

  const Experiment& experiment_;
  std::int64_t client_;
  std::int64_t nth_task_;
  std::int64_t batch_;
  bool drops_last_ = false;
  double lr_;
  Parameters parameters_;
  std::optional<Optimizer> optimizer_;
  std::optional<Penalty> penalty_;
  std::vector<std::int64_t> order_;  // of the current epoch
  std::int64_t epoch_ = 0;
  std::int64_t position_ = 0;  // in order_
  std::int64_t steps_ = 0;
  std::int64_t samples_ = 0;
  double loss_sum_ = 0;  // with this optimiser
  std::int64_t loss_samples_ = 0;
};

}  // namespace espalier
