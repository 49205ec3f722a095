#pragma once
// FedDyn: each client's loss gets a linear term that remembers its past differences, so that with
// different data the clients still agree at the optimum of all, and the server takes its mean a
// step further by the same memory. Source: Acar et al., ICLR 2021; specs, submodel baselines 1.12
// for its part in DepthFL.

#include "espalier/protocol/rounds/catalogue.h"

namespace espalier::rounds {

/// The client's half, which objectives share: to a loss L it adds -<g, w> + alpha/2 |w - w_sent|^2,
/// and after the task g <- g - alpha (w_trained - w_sent). g begins at zero and is the client's
/// state; of a submodel that has changed since, values new to it begin at zero, those left are
/// forgotten. Acts on the flat gradient, so it costs no passes; holds two copies of the weights.
class DynamicTerm {
 public:
  /// method.dynamic_alpha, above 0, for every client; with method.alpha_by_samples divided by the
  /// client's samples over the mean of all clients'.
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
  at::Tensor sent_;       // flat, as the model in training
  at::Tensor memory_;     // g, flat as well
  // Of the last task: the submodel's code, and g of it, dense; empty before the first.
  std::vector<std::int64_t> code_;
  std::vector<float> state_;
};

/// method.dynamic_alpha, method.alpha_by_samples.
void declare_dynamic_option(OptionTable& table);

void register_feddyn(Catalogue& catalogue);

}  // namespace espalier::rounds
