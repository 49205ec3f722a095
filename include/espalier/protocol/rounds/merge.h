#pragma once
// The default merge: for every parameter the weighted mean over its holders, in cache-sized blocks
// with double accumulators that are rounded once. (In float, numerator over denominator with a
// single holder would change one value in seven.) Parameters that nobody held keep their value.

#include <array>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "espalier/protocol/rounds/rules.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {

/// One holder's part in a weighted sum.
struct Holding {
  std::shared_ptr<const Plan> plan;  ///< from the update's buffer layout to the model's
  const float* values = nullptr;
  double weight = 1;
};

/// What the update trained, and what it had been sent of the same parameters, each with its weight.
std::pair<Holding, Holding> holdings_of(const Experiment& experiment, const Parameters& model,
                                        const Update& update);

/// Values of the model that are summed at a time: both sums stay in the first two cache levels.
inline constexpr std::int64_t kMergeBlock = 4096;

/// Sums over the holders of each parameter in one block of the model.
struct BlockSums {
  std::array<double, kMergeBlock> numerator;    ///< sum_w weight_w values_w[j]
  std::array<double, kMergeBlock> denominator;  ///< sum_w weight_w
  /// Replaces both by the sums over `holdings`, added in the order given. range.size() <=
  /// kMergeBlock.
  void sum(Range range, std::span<const Holding> holdings);
};

/// Calls work(range) for one block of the model's trained values after the other.
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
  for (const Plan::Run& run : trained.plan->runs()) {
    for (std::int64_t i = 0; i < run.length; ++i) {
      float& value = values[run.destination + i];
      value = static_cast<float>(change(value, trained.values[run.source + i],
                                        sent.values[run.source + i], run.destination + i));
    }
  }
}

/// How much an update counts that is `staleness` versions behind (Xie et al. 2019, FedAsync):
/// polynomial (1 + staleness)^-power; hinge 1 up to b, then 1 / (a (staleness - b) + 1).
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

/// Holders of each trained parameter: the smallest number, and the mean.
Coverage coverage(const Experiment& experiment, const BufferLayout& model,
                  std::span<const Update> updates);

/// "average": weights are the clients' sample counts (method.weighting = samples) or equal
/// (uniform), each times its staleness weight.
class AverageMerge : public MergeRule {
 public:
  explicit AverageMerge(const RuleContext& context);
  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override;

 protected:
  /// What of an update counts, beyond the submodel itself: all of it by default.
  virtual const Submodel* restriction(const Experiment&, const Update&) const { return nullptr; }

 private:
  bool by_samples_ = true;
  StalenessWeight staleness_;
};

/// method.weighting, and those of the staleness weight.
void declare_average_options(OptionTable& table);

}  // namespace espalier::rounds
