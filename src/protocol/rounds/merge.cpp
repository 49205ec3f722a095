#include "espalier/protocol/rounds/merge.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "espalier/base/wide.h"
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

namespace {

struct Term {
  const float* values;
  double weight;
};

/// mean_of_all() of `length` values from `begin` on. Inlined, so that a constant length is
/// vectorised.
template <class Length>
[[gnu::always_inline]] inline void mean_of_part(std::span<const Term> terms, double denominator,
                                                std::int64_t begin, Length length, double* sums,
                                                float* mean) {
  for (std::int64_t i = 0; i < length; ++i) sums[i] = 0;
  for (const Term& term : terms) {
    const float* const values = term.values + begin;
    const double weight = term.weight;
    for (std::int64_t i = 0; i < length; ++i) sums[i] += weight * static_cast<double>(values[i]);
  }
  for (std::int64_t i = 0; i < length; ++i) {
    mean[begin + i] = static_cast<float>(sums[i] / denominator);
  }
}

/// The mean of values that all updates hold: the same sums in the same order as BlockSums, but with
/// one denominator, so that memory is read and written once.
ESPALIER_WIDE void mean_of_all(std::span<const Term> terms, float* mean, std::int64_t count) {
  double denominator = 0;
  for (const Term& term : terms) denominator += term.weight;
  if (!(denominator > 0)) return;
  constexpr std::int64_t kPart = 512;
  double sums[kPart];
  std::int64_t begin = 0;
  for (; begin + kPart <= count; begin += kPart) {
    mean_of_part(terms, denominator, begin, std::integral_constant<std::int64_t, kPart>{}, sums,
                 mean);
  }
  mean_of_part(terms, denominator, begin, count - begin, sums, mean);
}

/// Whether every holding has every trained value of the model, all in one layout.
bool hold_all(const Parameters& model, std::span<const Holding> holdings) {
  if (holdings.empty()) return false;
  const Plan& first = *holdings.front().plan;
  return first.count() == model.buffer_layout().count(Kind::trainable) &&
         std::ranges::all_of(holdings, [&](const Holding& h) { return h.plan.get() == &first; });
}

}  // namespace

void weighted_mean(Parameters& model, std::span<const Holding> holdings) {
  float* values = model.data();
  if (hold_all(model, holdings)) {
    for (const Plan::Run& run : holdings.front().plan->runs()) {
      std::vector<Term> terms;
      for (const Holding& h : holdings) terms.push_back({h.values + run.source, h.weight});
      mean_of_all(terms, values + run.destination, run.length);
    }
    return;
  }
  BlockSums sums;
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
