#pragma once
// A client's task as a resumable stepper: begin (weights in, gradients and optimiser allocated),
// one batch per step, finish (trained weights out). A search for the submodel to train may come
// first, as a stage with weights and an optimiser of its own. All its allocations belong to the
// task's memory account. When they exceed the account's cap, the task ends as out_of_memory and
// frees everything.

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "espalier/comm/mailbox.h"
#include "espalier/device/memory.h"
#include "espalier/protocol/rounds/client_task.h"
#include "espalier/protocol/rounds/personal.h"
#include "espalier/protocol/rounds/rules.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {

class ClientStepper {
 public:
  /// `payload`: shared trained values of the task's submodel, and companion values if the merge
  /// rule sends them. Never throws because of the memory
  /// cap: the first step() then returns false.
  ClientStepper(const RuleContext& context, const ClientRules& rules, ClientTask task,
                std::int64_t message_bytes, SharedBytes payload);

  const ClientTask& task() const { return task_; }
  /// Batches trained so far, and of the whole task.
  std::int64_t steps_done() const { return trainer_.steps(); }
  std::int64_t steps() const { return steps_; }
  /// Trains one batch, in all its parts; false if nothing is left to do.
  bool step();
  /// The result, and the trained values (empty if the task ran out of memory). Call once, after
  /// step() returned false.
  std::pair<ClientResult, SharedBytes> finish();

 private:
  enum class Stage { sent, search, training };
  void begin();
  void begin_search();
  void end_search();
  void begin_training();
  bool test_batch();
  LocalView view() { return {experiment_, trainer_.parameters(), task_}; }
  void place(const std::shared_ptr<const Layout>& layout);
  void archive_training_state(Archive& archive);
  void release();

  const Experiment& experiment_;
  ClientTask task_;
  SharedBytes payload_;
  std::shared_ptr<MemoryAccount> account_;
  std::int64_t message_bytes_;
  std::unique_ptr<LocalObjective> objective_;
  std::unique_ptr<SubmodelSearch> search_;  // carries its state through tasks without a search too
  Trainer trainer_;
  Stage stage_ = Stage::sent;
  std::optional<ByteArchive> state_;  // reads task_.state
  std::int64_t search_steps_ = 0;
  std::int64_t steps_ = 0;
  PersonalValues personal_;  // of the client
  struct {
    std::vector<std::int64_t> samples;
    std::int64_t tested = 0;  // of these
  } local_test_;
  ClientResult result_;
};

}  // namespace espalier::rounds
