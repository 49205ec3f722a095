#include "espalier/protocol/rounds/server_optimizer.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

#include "espalier/config/choice.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

enum class ServerStep { none, sgd, momentum, adam, yogi, adagrad };
constexpr const char* kServerSteps[] = {"none", "sgd", "momentum", "adam", "yogi", "adagrad"};

ServerStep server_step(const Config& config) {
  return choice<ServerStep>(config, "method.server_optimizer", kServerSteps);
}

class WithServerOptimizer final : public MergeRule {
 public:
  WithServerOptimizer(const Config& config, ServerStep step, std::unique_ptr<MergeRule> rule)
      : rule_(std::move(rule)), step_(step), lr_(config.real("method.server_lr")) {
    if (step == ServerStep::momentum) momentum_ = config.real("method.server_momentum");
    if (!adapts()) return;
    beta1_ = config.real("method.server_beta1");
    tau_ = config.real("method.server_tau");
    if (step != ServerStep::adagrad) beta2_ = config.real("method.server_beta2");
  }

  void merge(const Experiment& experiment, Parameters& model, std::span<Update> updates) override {
    const auto size = static_cast<std::size_t>(model.buffer_layout().size());
    const std::vector<float> before(model.data(), model.data() + size);
    rule_->merge(experiment, model, updates);
    const std::vector<bool> held = held_values(experiment, model, updates);
    if (step_ != ServerStep::sgd) first_.resize(size, 0.0F);
    if (adapts()) second_.resize(size, static_cast<float>(tau_ * tau_));
    const Range trained = model.buffer_layout().kind_range(Kind::trainable);
    for (auto i = static_cast<std::size_t>(trained.begin);
         i < static_cast<std::size_t>(trained.end); ++i) {
      float& value = model.data()[i];
      if (held[i] || value != before[i]) value = stepped(i, before[i], value);
    }
  }

  const Submodel* restriction(const Experiment& experiment, const Update& update) const override {
    return rule_->restriction(experiment, update);
  }

  const Parameters* companion() const override { return rule_->companion(); }

  void archive(Archive& archive) override {
    rule_->archive(archive);
    archive_floats(archive, "first", first_);
    archive_floats(archive, "second", second_);
  }

 private:
  bool adapts() const { return step_ != ServerStep::sgd && step_ != ServerStep::momentum; }

  /// Whether an update holds the value, for each float of the model.
  std::vector<bool> held_values(const Experiment& experiment, const Parameters& model,
                                std::span<const Update> updates) const {
    std::vector<bool> held(static_cast<std::size_t>(model.buffer_layout().size()), false);
    for (const Update& update : updates) {
      const auto plan = experiment.plans->plan(*update.buffer_layout, model.buffer_layout(),
                                               restriction(experiment, update), kTrained);
      for (const Plan::Run& run : plan->runs()) {
        std::fill_n(held.begin() + run.destination, run.length, true);
      }
    }
    return held;
  }

  /// The value after the server's step; the rule moved it from `before` to `merged`.
  float stepped(std::size_t i, double before, double merged) {
    const double change = merged - before;
    // Steps as corrections of the rule's result are exactly zero in the neutral settings.
    if (step_ == ServerStep::sgd) return static_cast<float>(merged + (lr_ - 1) * change);
    if (step_ == ServerStep::momentum) {
      const double velocity = momentum_ * static_cast<double>(first_[i]) + change;
      first_[i] = static_cast<float>(velocity);
      return static_cast<float>(merged + (lr_ * velocity - change));
    }
    const double mean = beta1_ * static_cast<double>(first_[i]) + (1 - beta1_) * change;
    const double square = next_square(second_[i], change * change);
    first_[i] = static_cast<float>(mean);
    second_[i] = static_cast<float>(square);
    return static_cast<float>(before + lr_ * mean / (std::sqrt(square) + tau_));
  }

  double next_square(double old, double square) const {
    if (step_ == ServerStep::adagrad) return old + square;
    if (step_ == ServerStep::adam) return beta2_ * old + (1 - beta2_) * square;
    const double sign = old > square ? 1 : old < square ? -1 : 0;
    return old - (1 - beta2_) * square * sign;
  }

  std::unique_ptr<MergeRule> rule_;
  ServerStep step_;
  double lr_;
  double momentum_ = 0;
  double beta1_ = 0, beta2_ = 0, tau_ = 0;
  std::vector<float> first_, second_;  // over the whole model; empty before the first merge
};

}  // namespace

void declare_server_options(OptionTable& table) {
  table.add_choice("method.server_optimizer", "none",
                   "optimiser of the server: its step along the change that the merge rule made; "
                   "none = the merge rule's result",
                   {std::begin(kServerSteps), std::end(kServerSteps)});
  table.add({"method.server_lr", OptionType::real, "1",
             "server optimiser, or merge buffered_differences without one: factor of the server's "
             "step",
             "", 0, 1e6});
  table.add({"method.server_momentum", OptionType::real, "0",
             "server optimiser momentum, or merge buffered_differences without one: momentum of "
             "the server's steps",
             "", 0, 1});
  table.add({"method.server_beta1", OptionType::real, "0.9",
             "server optimisers adam, yogi, adagrad: decay of the mean of changes", "", 0,
             0.9999999});
  table.add({"method.server_beta2", OptionType::real, "0.99",
             "server optimisers adam, yogi: decay of the mean of squares", "", 0, 0.9999999});
  table.add(
      {"method.server_tau", OptionType::real, "1e-3",
       "server optimisers adam, yogi, adagrad: term added to the root of the mean of squares, "
       "whose first value is its square",
       "", 1e-12, 1e3});
}

bool has_server_optimizer(const Config& config) { return server_step(config) != ServerStep::none; }

/// The model before the merge and up to two moments.
std::int64_t server_optimizer_copies(const Config& config) {
  switch (server_step(config)) {
    case ServerStep::none:
      return 0;
    case ServerStep::sgd:
      return 1;
    case ServerStep::momentum:
      return 2;
    case ServerStep::adam:
    case ServerStep::yogi:
    case ServerStep::adagrad:
      break;
  }
  return 3;
}

std::unique_ptr<MergeRule> with_server_optimizer(const Config& config,
                                                 std::unique_ptr<MergeRule> rule) {
  const ServerStep step = server_step(config);
  if (step == ServerStep::none) return rule;
  return std::make_unique<WithServerOptimizer>(config, step, std::move(rule));
}

}  // namespace espalier::rounds
