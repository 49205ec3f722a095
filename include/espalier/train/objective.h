#pragma once
// The loss that a client minimises. An objective may add terms to the loss, or act on the flat
// gradient after the backward pass, and may keep state per client across tasks.

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/base/bytes.h"
#include "espalier/train/experiment.h"

namespace espalier {

/// A model that another client has trained.
struct PeerModel {
  Submodel submodel;
  SharedBytes values;  ///< its trained values, dense
};

/// A piece of local training, for its objective.
struct LocalTask {
  std::int64_t client = 0;
  std::int64_t nth_task = 0;      ///< of this client, from 0; keys its random streams
  std::int64_t base_version = 0;  ///< of the global model from which it starts
  Submodel submodel;
  double search = 0;  ///< above 0: the fraction of units to search for before the training
  /// Values that the merge rule sends beside the weights, with their layout (shared); null: none.
  SharedBytes companion{};
  std::vector<PeerModel> peers{};  ///< at most LocalObjective::peers(), no larger than the submodel
};

/// The objects that an objective may use during a task.
struct LocalView {
  const Experiment& experiment;
  Parameters& parameters;
  const LocalTask& task;
};

/// Logits [..., classes] of one batch.
struct Outputs {
  at::Tensor logits;              ///< of the submodel's deepest classifier
  std::vector<at::Tensor> exits;  ///< of its shallower classifiers, in order
};

/// Passes of one submodel with batches of one size.
struct SubmodelPasses {
  Submodel submodel;
  Workload::Passes passes;
  bool forward_only = false;  ///< without a gradient, as by a frozen copy
};

/// The base class is the objective of FedAvg: cross-entropy.
class LocalObjective {
 public:
  virtual ~LocalObjective() = default;

  /// Called once per task with the received weights, in the task's memory scope.
  virtual void begin(const LocalView&) {}
  /// Called before each batch; sets options of its forward pass.
  virtual void prepare(const LocalView&, Context&) {}
  /// Whether loss() reads Outputs::exits.
  virtual bool uses_exits() const { return true; }
  /// The weights of the batch's forward pass: the task's weights, or a part of them that prepare()
  /// made.
  virtual const Parameters& weights(const LocalView& view) const { return view.parameters; }
  /// Mean loss of one batch, to be minimised; a scalar with a graph. By default the sum of every
  /// classifier's cross-entropy (with exits: deep supervision, Lee et al. 2015).
  virtual at::Tensor loss(const LocalView&, const Batch& batch, const Outputs& outputs);
  /// After the backward pass, before clipping and the optimiser's step.
  virtual void after_backward(const LocalView&) {}
  /// Called once per task after its last batch, before the weights are sent; it may change them.
  virtual void end(const LocalView&) {}
  /// Its bytes beside model and activations during the training of a submodel with batches of
  /// `batch` samples, for the memory bound.
  virtual std::int64_t extra_bytes(const Experiment&, const Submodel&, std::int64_t batch) const {
    return 0;
  }
  /// The forward and backward passes of a task that trains `trained` with these batches; by default
  /// one pass of `trained` for each batch.
  virtual std::vector<SubmodelPasses> passes(const Experiment&, const LocalTask&,
                                             const Submodel& trained,
                                             const Workload& batches) const;
  /// The merge rule whose companion values it reads; empty: none.
  virtual std::string companion_rule() const { return {}; }
  /// The number of other clients' models, as they were merged last, that should travel with a task.
  virtual std::int64_t peers() const { return 0; }
  /// State that the client keeps between tasks; nothing by default.
  virtual void archive(Archive&) {}
};

/// Bytes of a submodel's aligned values: of all that are not frozen, which are those of a copy
/// (Parameters::copy), and of the frozen ones.
std::int64_t weight_bytes(const Experiment&, const Submodel&);
std::int64_t frozen_bytes(const Experiment&, const Submodel&);
/// Bytes of one classifier's logits for `batch` samples.
std::int64_t logits_bytes(const Experiment&, std::int64_t batch);

/// Mean cross-entropy over all rows of logits [..., classes] with labels [...]: a label counts
/// 1 - smoothing for itself, and smoothing / classes for each class (Szegedy et al. 2016).
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double smoothing);

/// Mean over the samples of KL(p || q), of the log-softmaxes log p and log q [..., classes].
at::Tensor divergence(const at::Tensor& log_p, const at::Tensor& log_q);

}  // namespace espalier
