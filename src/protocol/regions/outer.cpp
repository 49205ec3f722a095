#include "espalier/protocol/regions/outer.h"

#include <cmath>

#include "espalier/config/choice.h"

namespace espalier::regions {
namespace {

constexpr const char* kOuters[] = {"sgd", "nesterov", "adam"};

}  // namespace

void declare_outer_options(OptionTable& table) {
  table.add_choice("regions.outer", "nesterov", "outer optimiser, which moves the shared copy",
                   {std::begin(kOuters), std::end(kOuters)});
  table.add({"regions.outer_lr", OptionType::real, "0.7", "learning rate of the outer optimiser",
             "", 0, 1e3});
  table.add(
      {"regions.outer_momentum", OptionType::real, "0.9", "outer nesterov: momentum", "", 0, 1});
  table.add({"regions.outer_beta1", OptionType::real, "0.9",
             "outer adam: decay of the mean of differences", "", 0, 0.9999999});
  table.add({"regions.outer_beta2", OptionType::real, "0.95",
             "outer adam: decay of the mean of squares", "", 0, 0.9999999});
  table.add({"regions.outer_epsilon", OptionType::real, "0.1",
             "outer adam: term added to the root of the mean of squares", "", 1e-30, 1e3});
}

OuterSettings outer_settings(const Config& config) {
  OuterSettings s;
  s.kind = choice<OuterKind>(config, "regions.outer", kOuters);
  s.lr = config.real("regions.outer_lr");
  if (s.kind == OuterKind::nesterov) s.momentum = config.real("regions.outer_momentum");
  if (s.kind == OuterKind::adam) {
    s.beta1 = config.real("regions.outer_beta1");
    s.beta2 = config.real("regions.outer_beta2");
    s.epsilon = config.real("regions.outer_epsilon");
  }
  return s;
}

OuterOptimizer::OuterOptimizer(OuterSettings settings, std::int64_t values) : settings_(settings) {
  const auto size = static_cast<std::size_t>(values);
  if (copies(settings.kind) > 0) first_.assign(size, 0);
  if (copies(settings.kind) > 1) second_.assign(size, 0);
}

void OuterOptimizer::step(std::span<float> shared, std::span<const double> mean) {
  ++steps_;
  const OuterSettings& s = settings_;
  const double first_correction = 1 - std::pow(s.beta1, static_cast<double>(steps_));
  const double second_correction = 1 - std::pow(s.beta2, static_cast<double>(steps_));
  for (std::size_t i = 0; i < shared.size(); ++i) {
    const double difference = static_cast<double>(shared[i]) - mean[i];
    // shared - lr difference, in a form that is exactly the mean for lr 1.
    double moved = mean[i] + (1 - s.lr) * difference;
    if (s.kind == OuterKind::nesterov) {
      first_[i] = static_cast<float>(s.momentum * static_cast<double>(first_[i]) + difference);
      moved -= s.lr * s.momentum * static_cast<double>(first_[i]);
    } else if (s.kind == OuterKind::adam) {
      const double m = s.beta1 * static_cast<double>(first_[i]) + (1 - s.beta1) * difference;
      const double v =
          s.beta2 * static_cast<double>(second_[i]) + (1 - s.beta2) * difference * difference;
      first_[i] = static_cast<float>(m);
      second_[i] = static_cast<float>(v);
      moved = static_cast<double>(shared[i]) -
              s.lr * (m / first_correction) / (std::sqrt(v / second_correction) + s.epsilon);
    }
    shared[i] = static_cast<float>(moved);
  }
}

void OuterOptimizer::archive(Archive& archive) {
  archive.value("steps", steps_);
  archive.value("first", std::span<float>(first_));
  archive.value("second", std::span<float>(second_));
}

}  // namespace espalier::regions
