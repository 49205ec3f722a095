#pragma once
// The rules of a method: the submodel of each task (SubmodelRule), the next version from updates
// (MergeRule), the loss of a client (LocalObjective, in train) and the time of a merge (window.h).
// Any registered rule can replace another in an input file.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "espalier/base/archive.h"
#include "espalier/comm/mailbox.h"
#include "espalier/record/outcome.h"
#include "espalier/train/evaluate.h"
#include "espalier/train/experiment.h"
#include "espalier/train/search.h"

namespace espalier::rounds {

/// The moment at which a submodel is chosen.
struct SendMoment {
  std::int64_t client = 0;
  std::int64_t nth_task = 0;  ///< of this client
  std::int64_t version = 0;   ///< of the global model that the task starts from
  std::int64_t slot = 0;      ///< tasks of this version that were sent before
};

/// All bytes of a client on its links in one task.
struct Traffic {
  std::int64_t received = 0, sent = 0;
};

/// The submodel of a task, and the search before its training.
struct Assignment {
  Submodel submodel;
  double width = 1;  ///< fraction of the model's width, for the record and the merge
  /// Above 0: the client first searches for this fraction of the submodel's units, and trains the
  /// submodel that it finds (train/search.h).
  double search = 0;
  /// Bytes by which the server names the submodel to its client, if the client knows what the name
  /// stands for; -1: it gets the list of kept units.
  std::int64_t name_bytes = -1;
  /// Bytes that the client receives before and sends after its training, if clients exchange values
  /// among themselves; none: the submodel's values from the server and back.
  std::optional<Traffic> traffic{};
};

/// A report to the rules of a task that has ended.
struct TaskReport {
  std::int64_t client = 0;
  std::int64_t nth_task = 0;
  std::int64_t base_version = 0;
  Outcome outcome = Outcome::merged;
  const Submodel& submodel;  ///< sent to the client, or found by its search
  bool searched = false;     ///< the client's search found the submodel
  Nanoseconds sent = 0, download = 0, compute = 0, upload = 0, finish = 0;
  double train_loss = 0;
  EvaluationSums local{};  ///< of the received model on the client's local test; no samples: none
};

/// A delivered update as a merge rule sees it.
struct Update {
  std::int64_t task = 0;
  std::int64_t client = 0;
  std::int64_t base_version = 0;
  std::int64_t staleness = 0;
  std::int64_t samples = 0;                             ///< of the client
  std::int64_t steps = 0;                               ///< batches trained
  double lr = 0;                                        ///< learning rate of these batches
  std::shared_ptr<const BufferLayout> buffer_layout{};  ///< shared; of `values` and `sent`
  SharedBytes values{};                                 ///< trained values (kTrained), as received
  SharedBytes sent{};                                   ///< the payload that the task started from
  double width = 1;                                     ///< of its assignment
  double weight = 0;                                    ///< set by the rule, for the record
};

/// A new version of the model, and the updates that made it, in (client, task) order.
struct NewVersion {
  std::int64_t version = 0;
  const Parameters& model;
  std::span<const Update> updates;
};

class SubmodelRule {
 public:
  virtual ~SubmodelRule() = default;
  /// May be called several times for one task, and returns the same each time. The slot may differ
  /// between the calls that check the client's memory and the last call.
  virtual Assignment choose(const Experiment& experiment, const SendMoment& moment) = 0;
  /// Called once for each task, when the server gets its answer or notices its failure.
  virtual void observe(const Experiment&, const TaskReport&) {}
  /// Called after each merge, before the tasks of the new version are sent.
  virtual void merged(const Experiment&, const NewVersion&) {}
  virtual void archive(Archive&) {}
};

class MergeRule {
 public:
  virtual ~MergeRule() = default;
  /// Makes the next version in place. `updates` are in (client, task) order; the rule sets their
  /// weights.
  virtual void merge(const Experiment& experiment, Parameters& model,
                     std::span<Update> updates) = 0;
  /// The part of an update's submodel that is merged; null, the default: all of it. Valid until the
  /// next call.
  virtual const Submodel* restriction(const Experiment&, const Update&) const { return nullptr; }
  /// Values that travel beside the weights of every task, one for each weight of the model
  /// (aligned): the values of the task's submodel follow its weights in the payload and in
  /// Update::sent, and a message back is charged for as many. Null, the default: none. The choice
  /// holds for the whole run.
  virtual const Parameters* companion() const { return nullptr; }
  virtual void archive(Archive&) {}
};

/// Upper bound of a client's bytes during a task.
using PeakBytes = std::function<std::int64_t(const Assignment&, std::int64_t client)>;
/// Time from sending to arrival of a client's task on its device without modes and faults.
using UpdateTime = std::function<Nanoseconds(const Assignment&, std::int64_t client)>;

/// The arguments of a rule's constructor. All must outlive the rule. Only submodel rules have
/// `peak` and `update_time`, which may be copied.
struct RuleContext {
  const Config& config;
  const Experiment& experiment;
  PeakBytes peak{};
  UpdateTime update_time{};
};
template <class Rule>
using RuleFactory = std::function<std::unique_ptr<Rule>(const RuleContext&)>;

/// The factory of a rule whose constructor takes a RuleContext.
template <class Rule>
std::unique_ptr<Rule> make_rule(const RuleContext& context) {
  return std::make_unique<Rule>(context);
}

/// The rules of the clients, on the server for the costs of tasks.
struct TaskRules {
  std::shared_ptr<const LocalObjective> objective;
  std::shared_ptr<const SubmodelSearch> search;  ///< null: no client searches
  std::int64_t vectors = 1;  ///< values that a message carries for each weight, either way
};

/// The rules of one run, as its server needs them.
struct ServerRules {
  std::unique_ptr<SubmodelRule> submodel;
  std::unique_ptr<MergeRule> merge;
  TaskRules tasks;
};

/// The rules of the clients. Each task has rule objects of its own.
struct ClientRules {
  RuleFactory<LocalObjective> objective = [](const RuleContext&) {
    return std::make_unique<LocalObjective>();  // cross-entropy
  };
  RuleFactory<SubmodelSearch> search{};  ///< empty: no task has a search
};

}  // namespace espalier::rounds
