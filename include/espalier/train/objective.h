#pragma once
// What a client minimises. An objective may add terms to the loss, or act on the flat gradient
// after the backward pass, and may keep state per client across tasks (it rides with the task; see
// protocol/rounds).

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/train/experiment.h"

namespace espalier {

struct ClientTask;  // client.h

/// What an objective may look at while it serves one task.
struct LocalView {
  const Experiment& experiment;
  Parameters& parameters;
  const ClientTask& task;
};

/// Logits [..., classes] of one batch.
struct Outputs {
  at::Tensor logits;              ///< of the classifier by which the submodel answers
  std::vector<at::Tensor> exits;  ///< of its shallower ones, in order
};

class LocalObjective {
 public:
  virtual ~LocalObjective() = default;

  /// Called once per task when the received weights are in place, in the task's memory scope.
  virtual void begin(const LocalView&) {}
  /// Before each batch: settings of its forward pass.
  virtual void prepare(const LocalView&, Context&) {}
  /// Mean loss of one batch, to be minimised; a scalar with a graph. labels [...]: a sample has one
  /// label, or one for each position of a text. By default the sum of every classifier's
  /// cross-entropy (deep supervision, Lee et al. 2015, where there are exits).
  virtual at::Tensor loss(const LocalView&, const Outputs& outputs, const at::Tensor& labels) const;
  /// After the backward pass, before clipping and the optimiser's step.
  virtual void after_backward(const LocalView&) {}
  /// Bytes that it holds for a model of `weight_bytes` whose largest batch has logits of
  /// `logits_bytes` at each classifier, for the memory bound.
  virtual std::int64_t extra_bytes(std::int64_t weight_bytes, std::int64_t logits_bytes) const {
    return 0;
  }
  /// State of the client that outlives the task; nothing by default.
  virtual void archive(Archive&) {}
};

/// Mean cross-entropy over all rows of logits [..., classes] with labels [...]: a label counts
/// 1 - smoothing for itself, and smoothing / classes for each class (Szegedy et al. 2016).
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double smoothing);

/// Makes one objective per task.
using ObjectiveFactory = std::function<std::unique_ptr<LocalObjective>(const Config&)>;

/// Cross-entropy, the plain objective of FedAvg.
std::unique_ptr<LocalObjective> make_cross_entropy(const Config&);

}  // namespace espalier
