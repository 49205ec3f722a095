#pragma once
// One piece of client work as a resumable stepper: begin (weights in, gradients and optimiser
// allocated), one batch per step, finish (trained weights out). A search for the submodel to train
// may come first, as a stage with weights and an optimiser of its own. Everything it allocates
// belongs to the task's memory account; where the account's cap is passed, the task ends as
// out_of_memory and gives everything back.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "espalier/comm/mailbox.h"
#include "espalier/device/memory.h"
#include "espalier/model/submodel.h"
#include "espalier/train/evaluate.h"
#include "espalier/train/experiment.h"
#include "espalier/train/objective.h"
#include "espalier/train/optimizer.h"
#include "espalier/train/search.h"

namespace espalier {

/// What the server asks of a client; travels in the head of a task message.
struct ClientTask {
  std::int64_t task = 0;
  std::int64_t client = 0;
  std::int64_t nth_task = 0;  ///< of this client, from 0; keys its random streams
  std::int64_t base_version = 0;
  Nanoseconds finish = 0;      ///< when its answer is expected; for files alone
  bool answers_twice = false;  ///< a fault on purpose (protocol/rounds/faults.h)
  bool not_finite = false;     ///< another one
  Submodel submodel;
  Bytes state;        ///< the client's state before the task
  double search = 0;  ///< above 0: the share of units that it searches for first

  Bytes encode() const;
  /// Of the encoded bytes, those of the description itself, without the state.
  std::int64_t description_bytes(std::int64_t encoded) const {
    return encoded - static_cast<std::int64_t>(state.size());
  }
  static ClientTask decode(const Layout& layout, std::span<const std::byte> bytes);
};

/// What came of it; travels in the head of an update message.
struct ClientResult {
  std::int64_t task = 0;
  bool out_of_memory = false;
  std::int64_t samples = 0;  ///< seen, counting repeats
  std::int64_t steps = 0;
  double train_loss = 0;  ///< mean over the samples seen in training
  EvaluationSums local;   ///< of the received model on the client's local test; no samples: none
  std::int64_t peak_bytes = 0;
  std::int64_t cap_bytes = 0;    ///< 0: not capped
  std::int64_t asked_bytes = 0;  ///< the request that was refused
  /// Of a search: its own peak, and the code of what was found and trained; else 0 and empty.
  std::int64_t search_peak_bytes = 0;
  std::vector<std::int64_t> found;
  double wall_compute_s = 0;  ///< filled in by the server
  Bytes state;                ///< the client's state after the task

  Bytes encode() const;
  static ClientResult decode(std::span<const std::byte> bytes);
};

/// The kinds of entries that tasks and updates carry.
inline constexpr unsigned kTrained = 1u << static_cast<unsigned>(Kind::trainable);
/// Those of them that a search holds still.
inline constexpr unsigned kFrozen = 1u << static_cast<unsigned>(Kind::frozen);

/// Number of bytes of a message's payload: the trained values, dense.
std::int64_t payload_bytes(const BufferLayout& dense);
/// The trained values of `dense`, a submodel of the model's, packed as they travel.
std::shared_ptr<Bytes> pack_payload(PlanCache& plans, const Parameters& model,
                                    const BufferLayout& dense);

class ClientStepper {
 public:
  /// `payload`: dense trained values of the task's submodel. Never throws for want of memory: the
  /// first step() then returns false.
  ClientStepper(const Experiment& experiment, const ClientRules& rules, const Config& config,
                ClientTask task, std::int64_t message_bytes, SharedBytes payload);

  const ClientTask& task() const { return task_; }
  /// Batches trained so far, and in all.
  std::int64_t steps_done() const { return result_.steps; }
  std::int64_t steps() const { return search_steps_ + training_steps_; }
  /// Trains one batch, in all its parts; false when there is nothing left to do.
  bool step();
  /// The result, and the trained values (empty where the task ran out of memory). Call once, after
  /// step() returned false.
  std::pair<ClientResult, SharedBytes> finish();

 private:
  void begin();
  void begin_search();
  void end_search();
  void begin_training();
  void place_weights(const std::shared_ptr<const Layout>& layout);
  bool test_batch();
  void train_batch();
  /// What is minimised at present.
  LocalObjective& objective() { return searching_ ? *search_ : *objective_; }
  LocalView view() { return {experiment_, parameters_, task_}; }
  std::span<const std::int64_t> next_batch();
  void archive_training_state(Archive& archive);
  void release();

  const Experiment& experiment_;
  ClientTask task_;
  SharedBytes payload_;
  std::shared_ptr<MemoryAccount> account_;
  std::int64_t message_bytes_;
  std::unique_ptr<LocalObjective> objective_;
  std::unique_ptr<SubmodelSearch> search_;  // keeps its state also where this task has no search
  std::optional<Optimizer> optimizer_;
  Parameters parameters_;
  std::optional<ByteArchive> state_;  // reads task_.state
  double lr_ = 0;
  std::int64_t batch_ = 0;
  std::int64_t search_steps_ = 0;
  std::int64_t training_steps_ = 0;
  bool searching_ = false;
  std::vector<std::int64_t> order_;  // of the current epoch
  std::int64_t epoch_ = 0;
  std::int64_t position_ = 0;
  std::vector<std::int64_t> local_test_;
  std::int64_t tested_ = 0;  // of these
  bool begun_ = false;
  double loss_sum_ = 0;  // of training
  std::int64_t loss_samples_ = 0;
  ClientResult result_;
};

}  // namespace espalier
