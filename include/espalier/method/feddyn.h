#pragma once
// FedDyn: each client's loss gets a linear term from its past differences, so that clients with
// different data have the optimum of the global loss as their common optimum. The server shifts its
// mean by the same memory. Source: Acar et al., ICLR 2021; docs/methods/feddyn.md. DepthFL uses it
// too (docs/methods/depthfl.md).

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

/// The client's part, for several objectives: it adds -<g, w> + alpha/2 |w - w_sent|^2 to a loss L,
/// and after the task g <- g - alpha (w_trained - w_sent). g begins at zero and is the client's
/// state. If the submodel has changed since the last task, g is zero for new values, and its other
/// old values are dropped. Acts on the flat gradient, so it needs no further pass; holds two copies
/// of the weights.
class DynamicTerm {
 public:
  /// alpha is method.dynamic_alpha, above 0; with method.alpha_by_samples it is divided by the
  /// client's number of samples over the mean of all clients.
  explicit DynamicTerm(const Config& config);
  void begin(const LocalView& view);
  void after_backward(const LocalView& view) const;
  void end(const LocalView& view);
  void archive(Archive& archive);
  static std::int64_t extra_bytes(const Experiment& experiment, const Submodel& submodel);

 private:
  double alpha_;
  bool by_samples_;
  double own_alpha_ = 0;  // of the task's client
  at::Tensor sent_;       // flat, with the buffer layout of the trained model
  at::Tensor memory_;     // g, with the same layout
  // Of the last task: the submodel's code, and g, dense; empty before the first.
  std::vector<std::int64_t> code_;
  std::vector<float> state_;
};

/// method.dynamic_alpha, method.alpha_by_samples.
void declare_dynamic_option(OptionTable& table);

void register_feddyn(Catalogue& catalogue);

}  // namespace espalier::rounds
