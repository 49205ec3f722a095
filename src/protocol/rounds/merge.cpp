#include "espalier/protocol/rounds/merge.h"

#include <algorithm>
#include <cmath>

#include "espalier/train/trainer.h"

namespace espalier::rounds {

std::pair<Holding, Holding> holdings_of(const Experiment& experiment, const Parameters& model,
                                        const Update& update) {
  const auto plan =
      experiment.plans->plan(*update.buffer_layout, model.buffer_layout(), nullptr, kTrained);
  return {{plan, floats_of(*update.values).data(), update.weight},
          {plan, floats_of(*update.sent).data(), update.weight}};
}

void BlockSums::sum(Range range, std::span<const Holding> holdings) {
  const auto count = static_cast<std::size_t>(range.size());
  std::fill_n(numerator.begin(), count, 0.0);
  std::fill_n(denominator.begin(), count, 0.0);
  for (const Holding& holding : holdings) {
    holding.plan->accumulate(range, holding.values, holding.weight, numerator.data(),
                             denominator.data());
  }
}

void for_each_block(const Parameters& model, const std::function<void(Range)>& work) {
  const Range trained = model.buffer_layout().kind_range(Kind::trainable);
  for (std::int64_t begin = trained.begin; begin < trained.end; begin += kMergeBlock) {
    work({begin, std::min(begin + kMergeBlock, trained.end)});
  }
}

void weighted_mean(Parameters& model, std::span<const Holding> holdings) {
  BlockSums sums;
  float* values = model.data();
  for_each_block(model, [&](Range range) {
    sums.sum(range, holdings);
    for (std::size_t i = 0; i < static_cast<std::size_t>(range.size()); ++i) {
      if (sums.denominator[i] > 0) {
        values[range.begin + static_cast<std::int64_t>(i)] =
            static_cast<float>(sums.numerator[i] / sums.denominator[i]);
      }
    }
  });
}

void declare_staleness_options(OptionTable& table) {
  table.add_choice("method.staleness", "polynomial",
                   "form in which the weight of an update falls with its staleness",
                   {"polynomial", "hinge"});
  table.add({"method.staleness_power", OptionType::real, "0",
             "staleness polynomial: power in the weight (1 + staleness)^-power; 0 = constant", "",
             0, 100});
  table.add({"method.hinge_a", OptionType::real, "10",
             "staleness hinge: a in the weight 1 / (a (staleness - b) + 1) beyond b", "", 0, 1e6});
  table.add({"method.hinge_b", OptionType::real, "6",
             "staleness hinge: staleness b up to which an update has its full weight", "versions",
             0, 1e9});
}

StalenessWeight::StalenessWeight(const Config& config)
    : hinge_(config.text("method.staleness") == "hinge"),
      power_(hinge_ ? 0 : config.real("method.staleness_power")),
      a_(hinge_ ? config.real("method.hinge_a") : 0),
      b_(hinge_ ? config.real("method.hinge_b") : 0) {}

double StalenessWeight::operator()(std::int64_t staleness) const {
  const auto tau = static_cast<double>(staleness);
  if (!hinge_) return std::pow(1.0 + tau, -power_);
  return tau <= b_ ? 1.0 : 1.0 / (a_ * (tau - b_) + 1.0);
}

void declare_average_options(OptionTable& table) {
  table.add_choice("method.weighting", "samples",
                   "weight of an update by its client's samples, or the same for all",
                   {"samples", "uniform"});
  declare_staleness_options(table);
}

AverageMerge::AverageMerge(const RuleContext& context)
    : by_samples_(context.config.text("method.weighting") == "samples"),
      staleness_(context.config) {}

double AverageMerge::weight_of(const Update& update) const {
  return (by_samples_ ? static_cast<double>(update.samples) : 1.0) * staleness_weight(update);
}

void AverageMerge::merge(const Experiment& experiment, Parameters& model,
                         std::span<Update> updates) {
  std::vector<Holding> holdings;
  for (Update& update : updates) {
    update.weight = weight_of(update);
    // Divide by the first weight, so that equal weights are exactly 1.
    holdings.push_back({experiment.plans->plan(*update.buffer_layout, model.buffer_layout(),
                                               restriction(experiment, update), kTrained),
                        floats_of(*update.values).data(), update.weight / updates.front().weight});
  }
  combine(model, holdings);
}

}  // namespace espalier::rounds
