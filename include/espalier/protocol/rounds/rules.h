#pragma once
// The rules of which a method is composed: what each client trains next (SubmodelRule), how updates
// become the next version (MergeRule), what a client minimises (LocalObjective, in train) and when
// to merge (window.h). Any registered rule can replace another in an input file.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "espalier/base/archive.h"
#include "espalier/comm/mailbox.h"
#include "espalier/train/experiment.h"
#include "espalier/train/search.h"

namespace espalier::rounds {

/// The moment at which a submodel is chosen.
struct SendMoment {
  std::int64_t client = 0;
  std::int64_t nth_task = 0;  ///< of this client
  std::int64_t version = 0;   ///< of the global model that the task starts from
};

/// What a client is to do.
struct Assignment {
  Submodel submodel;
  double share = 1;  ///< of the model's width, for the record and the merge
  /// Above 0: it first searches for this share of the submodel's units, and trains what it finds
  /// (train/search.h).
  double search = 0;
};

class SubmodelRule {
 public:
  virtual ~SubmodelRule() = default;
  /// May be asked more than once for one moment, with the same answer.
  virtual Assignment choose(const Experiment& experiment, const SendMoment& moment) = 0;
  /// A client's answer was taken in: it searched, and trained `found`.
  virtual void observe(const Experiment&, const SendMoment& sent, const Submodel& found) {}
  virtual void archive(Archive&) {}
};

/// A delivered update as a merge rule sees it.
struct Update {
  std::int64_t task = 0;
  std::int64_t client = 0;
  std::int64_t base_version = 0;
  std::int64_t staleness = 0;
  std::int64_t samples = 0;  ///< of the client
  std::int64_t steps = 0;    ///< batches trained
  double lr = 0;             ///< learning rate of those
  std::shared_ptr<const BufferLayout>
      buffer_layout;   ///< dense buffer layout of `values` and `sent`
  SharedBytes values;  ///< trained values (kTrained), as they came
  SharedBytes sent;    ///< the payload that the task started from
  double share = 1;    ///< of its assignment
  double weight = 0;   ///< set by the rule, for the record
};

/// Holders per parameter of one window.
struct Coverage {
  double minimum = 0;
  double mean = 0;
};

class MergeRule {
 public:
  virtual ~MergeRule() = default;
  /// Makes the next version in place. `updates` are in (client, task) order; the rule sets their
  /// weights.
  virtual void merge(const Experiment& experiment, Parameters& model,
                     std::span<Update> updates) = 0;
  virtual void archive(Archive&) {}
};

/// The rules of one run, as its server needs them.
struct ServerRules {
  std::unique_ptr<SubmodelRule> submodel;
  std::unique_ptr<MergeRule> merge;
  // For what they cost only:
  std::unique_ptr<LocalObjective> objective;
  std::unique_ptr<SubmodelSearch> search;  ///< null: no client searches
};

/// Upper bound of the bytes that a client holds while it does what it is assigned.
using PeakBytes = std::function<std::int64_t(const Assignment&, std::int64_t client)>;

using SubmodelFactory = std::function<std::unique_ptr<SubmodelRule>(
    const Config&, const Experiment&, const PeakBytes&)>;
using MergeFactory = std::function<std::unique_ptr<MergeRule>(const Config&, const Experiment&)>;

}  // namespace espalier::rounds
