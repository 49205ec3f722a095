#include "espalier/method/fednova.h"

#include <cmath>

#include "espalier/protocol/rounds/merge.h"

namespace espalier::rounds {

double gradient_weights(std::int64_t steps, double momentum, bool nesterov) {
  const auto count = static_cast<double>(steps);
  if (momentum == 0) return count;
  if (momentum == 1) {  // the limit of the formula below
    const double sum = count * (count + 1) / 2;
    return nesterov ? count + sum : sum;
  }
  const double sum =
      (count - momentum * (1 - std::pow(momentum, count)) / (1 - momentum)) / (1 - momentum);
  return nesterov ? count + momentum * sum : sum;
}

namespace {

/// w + tau sum_i p_i (trained_i - sent_i) / a_i with tau = sum_i p_i a_i, for each parameter over
/// its holders, whose p_i add up to 1.
class NormalizedAverage : public AverageMerge {
 public:
  explicit NormalizedAverage(const RuleContext& context)
      : AverageMerge(context),
        momentum_(context.experiment.train.momentum),
        nesterov_(context.experiment.train.nesterov) {
    const TrainSettings& train = context.experiment.train;
    if (train.optimizer != OptimizerKind::sgd) {
      throw InputError(
          "method.merge = normalized_average divides by the steps of SGD, and other optimisers "
          "have "
          "no such sum; use train.optimizer = sgd");
    }
    if (train.momentum > 0 && train.optimizer_state == OptimizerState::keep) {
      throw InputError(
          "method.merge = normalized_average takes momentum to begin at zero in each task; use "
          "train.optimizer_state = reset");
    }
  }

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    // Weights as multiples of the first one's, so that equal ones are exactly 1.
    double first_weight = 0, first_sum = 0;
    std::vector<Holding> trained, sent, plain, scaled;
    for (Update& update : updates) {
      update.weight = weight_of(update);
      const double sum = gradient_weights(update.steps, momentum_, nesterov_);
      if (!(sum > 0)) continue;  // nothing was trained
      if (trained.empty()) {
        first_weight = update.weight;
        first_sum = sum;
      }
      auto [end, start] = holdings_of(experiment, model, update);
      const double weight = update.weight / first_weight, length = sum / first_sum;
      end.weight = start.weight = weight / length;
      trained.push_back(end);
      sent.push_back(start);
      start.weight = weight;
      plain.push_back(start);
      start.weight = weight * length;
      scaled.push_back(start);
    }
    auto ends = std::make_unique<BlockSums>();
    auto starts = std::make_unique<BlockSums>();
    auto weights = std::make_unique<BlockSums>();
    auto lengths = std::make_unique<BlockSums>();
    float* const values = model.data();
    for_each_block(model, [&](Range range) {
      ends->sum(range, trained);
      starts->sum(range, sent);
      weights->sum(range, plain);
      lengths->sum(range, scaled);
      for (std::size_t i = 0; i < static_cast<std::size_t>(range.size()); ++i) {
        const double weight = weights->denominator[i];
        if (!(weight > 0)) continue;
        const double tau = lengths->denominator[i] / weight;
        float& value = values[static_cast<std::size_t>(range.begin) + i];
        // In this order a mean of equal lengths from equal starts is the mean itself.
        value = static_cast<float>((value - tau * (starts->numerator[i] / weight)) +
                                   tau * (ends->numerator[i] / weight));
      }
    });
  }

 private:
  double momentum_;
  bool nesterov_;
};

}  // namespace

void register_fednova(Catalogue& c) {
  declare_average_options(c.options);
  c.merges.add(
      "normalized_average",
      "weighted mean of the differences over their numbers of steps, times the mean number",
      make_rule<NormalizedAverage>);
  Method method;
  method.merge = "normalized_average";
  c.methods.add("fednova", "FedAvg with differences divided by their steps (Wang et al. 2020)",
                method);
}

}  // namespace espalier::rounds
