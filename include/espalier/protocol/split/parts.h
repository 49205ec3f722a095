#pragma once
// What workers and hosts hold of the model. Exchanging features, it is cut at a block boundary:
// workers train copies of the bottom on their data, a host trains the top on the features that
// bottoms send. Any model and any boundary, as long as no block of one part uses weights of the
// other. Exchanging models, workers train copies of the whole model, and a host takes their mean.

#include <cstdint>

#include "espalier/config/config.h"
#include "espalier/train/experiment.h"

namespace espalier::split {

/// What a worker sends to its host in every iteration.
enum class Exchange { features, models };

/// What the top does with the features of its workers' batches.
enum class TopStep {
  merged,       ///< one step on all of them as one batch
  in_turn,      ///< one step for each worker's batch, one after the other
  accumulated,  ///< one step as merged, whose gradient is summed batch by batch as they arrive
  copies,  ///< a copy of the top for each worker's batch makes a step, and the copies are averaged
  mixup    ///< one step on all of them as one batch, and on mixtures of two workers' features
};

struct Parts {
  Exchange exchange = Exchange::features;
  int cut = 0;  ///< blocks of the bottom
  /// What workers train, and what the host has at the end of a round. Both are the whole model if
  /// models are exchanged.
  Submodel bottom, top;
  std::int64_t local_steps = 1;  ///< batches of an iteration; with features 1
  TopStep step = TopStep::merged;
  bool drops_last = false;   ///< samples at the end of an epoch that do not fill a batch
  bool random_turns = true;  ///< in_turn: in another order in every iteration, else by client
  double mixup_alpha = 1;    ///< mixup: of the Beta distribution of shares
};
/// split.exchange and what belongs to one kind of exchange.
void declare_part_options(OptionTable& table);
/// InputError if the model cannot be cut there, or the training settings do not suit a split model.
Parts make_parts(const Config& config, const Experiment& experiment);

}  // namespace espalier::split
