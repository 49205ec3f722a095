#pragma once
// The default merge: for every parameter the weighted mean over its holders, in cache-sized blocks
// with double accumulators that are rounded once. (In float, numerator over denominator with a
// single holder would change one value in seven.) A parameter without a holder keeps its value.

#include <array>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "espalier/protocol/rounds/rules.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {

/// One holder's term of a weighted sum.
struct Holding {
  std::shared_ptr<const Plan> plan;  ///< from the update's buffer layout to the model's
  const float* values = nullptr;
  double weight = 1;
};

/// The trained values of an update, and the sent values of the same parameters, each with the
/// update's weight.
std::pair<Holding, Holding> holdings_of(const Experiment& experiment, const Parameters& model,
                                        const Update& update);

/// Values of the model that are summed at a time: both sums stay in the first two cache levels.
inline constexpr std::int64_t kMergeBlock = 4096;

/// Sums over the holders of each parameter in one block of the model.
struct BlockSums {
  std::array<double, kMergeBlock> numerator;    ///< sum_w weight_w values_w[j]
  std::array<double, kMergeBlock> denominator;  ///< sum_w weight_w
  /// Sets both to the sums over `holdings`, added in their order. range.size() <= kMergeBlock.
  void sum(Range range, std::span<const Holding> holdings);
};

/// Calls work(range) for each block of the model's trained values, in order.
void for_each_block(const Parameters& model, const std::function<void(Range)>& work);

/// model[j] = sum_w weight_w values_w[j] / sum_w weight_w over the holders of j.
void weighted_mean(Parameters& model, std::span<const Holding> holdings);

/// Replaces each value that the update trained by change(value, trained, sent, index): `index`
/// counts the model's floats.
template <class Change>
void change_held(const Experiment& experiment, Parameters& model, const Update& update,
                 const Change& change) {
  const auto [trained, sent] = holdings_of(experiment, model, update);
  float* values = model.data();
  trained.plan->for_each_value([&](std::int64_t source, std::int64_t destination) {
    float& value = values[destination];
    value =
        static_cast<float>(change(value, trained.values[source], sent.values[source], destination));
  });
}

/// The weight of an update by its staleness in versions (Xie et al. 2019, FedAsync;
/// docs/methods/fedasync.md): polynomial (1 + staleness)^-power; hinge 1 up to b, then
/// 1 / (a (staleness - b) + 1).
class StalenessWeight {
 public:
  explicit StalenessWeight(const Config& config);
  double operator()(std::int64_t staleness) const;

 private:
  bool hinge_ = false;
  double power_ = 0;
  double a_ = 0;
  double b_ = 0;
};
/// method.staleness, method.staleness_power, method.hinge_a, method.hinge_b.
void declare_staleness_options(OptionTable& table);

/// "average": weights are the clients' sample counts (method.weighting = samples) or equal
/// (uniform), each times its staleness weight.
class AverageMerge : public MergeRule {
 public:
  explicit AverageMerge(const RuleContext& context);
  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override;

 protected:
  /// By samples, if method.weighting says so, and staleness.
  double weight_of(const Update& update) const;
  double staleness_weight(const Update& update) const { return staleness_(update.staleness); }
  /// Makes the next version; by default weighted_mean().
  virtual void combine(Parameters& model, std::span<const Holding> holdings) const {
    weighted_mean(model, holdings);
  }

 private:
  bool by_samples_ = true;
  StalenessWeight staleness_;
};

/// method.weighting, and the options of the staleness weight.
void declare_average_options(OptionTable& table);

}  // namespace espalier::rounds
