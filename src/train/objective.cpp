#include "espalier/train/objective.h"

#include <torch/csrc/autograd/custom_function.h>

namespace espalier {
namespace {

// ATen's label smoothing makes several tensors of the logits' size in addition to the plain loss.
// This class has an explicit gradient and needs fewer tensors than the plain loss, so the memory
// bound holds for both.
struct SmoothedCrossEntropy : torch::autograd::Function<SmoothedCrossEntropy> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& logits,
                            const at::Tensor& labels, double smoothing) {
    const at::Tensor log_probabilities = at::log_softmax(logits, 1);
    context->save_for_backward({log_probabilities, labels});
    context->saved_data["smoothing"] = smoothing;
    const at::Tensor own = at::nll_loss(log_probabilities, labels);
    return own * (1 - smoothing) - log_probabilities.mean() * smoothing;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const double smoothing = context->saved_data["smoothing"].toDouble();
    const auto rows = static_cast<double>(saved[0].size(0));
    const auto classes = static_cast<double>(saved[0].size(1));
    at::Tensor g = saved[0].exp().sub_(smoothing / classes);
    g.scatter_add_(1, saved[1].unsqueeze(1), at::full({saved[0].size(0), 1}, smoothing - 1));
    return {g.mul_(gradients[0] / rows), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double smoothing) {
  const at::Tensor rows = logits.flatten(0, -2);
  if (smoothing == 0) return at::cross_entropy_loss(rows, labels.flatten());
  return SmoothedCrossEntropy::apply(rows, labels.flatten(), smoothing);
}

at::Tensor divergence(const at::Tensor& log_p, const at::Tensor& log_q) {
  return (log_p.exp() * (log_p - log_q)).sum(-1).mean();
}

std::int64_t frozen_bytes(const Experiment& experiment, const Submodel& submodel) {
  const auto aligned = experiment.plans->buffer_layout(submodel, Packing::aligned);
  return static_cast<std::int64_t>(sizeof(float)) * aligned->kind_range(Kind::frozen).size();
}

std::int64_t weight_bytes(const Experiment& experiment, const Submodel& submodel) {
  return static_cast<std::int64_t>(sizeof(float)) *
         experiment.plans->buffer_layout(submodel, Packing::aligned)->size_without_frozen();
}

std::int64_t logits_bytes(const Experiment& experiment, std::int64_t batch) {
  const DataShape& shape = experiment.model.shape;
  return static_cast<std::int64_t>(sizeof(float)) * batch * shape.targets() * shape.classes;
}

at::Tensor LocalObjective::loss(const LocalView& view, const Batch& batch, const Outputs& outputs) {
  const double smoothing = view.experiment.train.label_smoothing;
  at::Tensor sum = cross_entropy(outputs.logits, batch.labels, smoothing);
  for (const at::Tensor& logits : outputs.exits) {
    sum = sum + cross_entropy(logits, batch.labels, smoothing);
  }
  return sum;
}

std::vector<SubmodelPasses> LocalObjective::passes(const Experiment&, const LocalTask&,
                                                   const Submodel& trained,
                                                   const Workload& batches) const {
  std::vector<SubmodelPasses> made;
  for (const Workload::Passes& passes : batches.passes) made.push_back({trained, passes});
  return made;
}

}  // namespace espalier
