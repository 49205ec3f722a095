#pragma once
// A search is a stage of a task before training: on its own data a client selects the part of the
// sent submodel that it then trains (masks of Co-S2P, docs/methods/cos2p.md). It uses the whole
// sent submodel, with some weights frozen, and has a memory bound and a time of its own. The found
// submodel becomes the task's, and is sent back with the update.

#include <cstdint>
#include <memory>

#include "espalier/train/objective.h"

namespace espalier {

/// As an objective it is the loss of the search.
class SubmodelSearch : public LocalObjective {
 public:
  // These follow from settings and sizes alone, so server and client agree without a message:

  /// Batches of the search in one task of the client.
  virtual Workload workload(const Experiment&, std::int64_t client) const = 0;
  /// Batches of the training after the search.
  virtual Workload training(const Experiment&, std::int64_t client) const = 0;
  /// The frozen entries and the gated axes. InputError if the model has no units to select.
  virtual Stage stage(const Model&, const Submodel& sent) const = 0;
  /// A submodel with the costs of the one to be found; a lower bound of these unless
  /// size_is_known().
  virtual Submodel expected(const Model&, const Submodel& sent, double fraction) const = 0;
  /// Whether the size of the found submodel follows from the settings.
  virtual bool size_is_known() const = 0;
  /// Bytes of the part of the answer that describes the found units.
  virtual std::int64_t answer_bytes(const Model&, const Submodel& sent) const = 0;

  // On the client: begin(), then batch after batch, then:

  bool uses_exits() const override { return false; }
  /// The submodel to train, inside the sent one.
  virtual Submodel found(const LocalView&) = 0;
};

}  // namespace espalier
