#pragma once
// A search is a stage of a task before training: in it a client looks for the part of what it was
// sent that it then trains, on its own data (Co-S2P's masks). It runs on everything that was sent,
// with some of the weights standing still, and has a memory bound and a time of its own. What it
// finds becomes the task's submodel, and travels back with the update.

#include <cstdint>
#include <memory>

#include "espalier/train/objective.h"

namespace espalier {

/// As an objective it is what the client minimises meanwhile.
class SubmodelSearch : public LocalObjective {
 public:
  // What follows from settings and sizes alone, so that server and client agree without a message:

  /// What the search itself does in one task of the client.
  virtual Workload workload(const Experiment&, std::int64_t client) const = 0;
  /// What is left for the training that follows.
  virtual Workload training(const Experiment&, std::int64_t client) const = 0;
  /// What stands still, and what has gates. InputError where the model has nothing to choose from.
  virtual Stage stage(const Model&, const Submodel& sent) const = 0;
  /// A submodel that costs what the one to be found will cost; where that is only known once it is
  /// found, what it will cost at least.
  virtual Submodel expected(const Model&, const Submodel& sent, double fraction) const = 0;
  virtual bool size_is_known() const = 0;
  /// Size of what tells the server which units were found.
  virtual std::int64_t answer_bytes(const Model&, const Submodel& sent) const = 0;

  // On the client: begin(), then batch after batch, then:

  bool uses_exits() const override { return false; }
  /// What to train; inside the submodel that was sent.
  virtual Submodel found(const LocalView&) = 0;
};

}  // namespace espalier
