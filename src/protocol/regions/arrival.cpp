#include "espalier/protocol/regions/arrival.h"

#include <algorithm>
#include <cmath>

#include "espalier/config/choice.h"

namespace espalier::regions {
namespace {

constexpr const char* kRules[] = {"replace", "blend", "compensate"};
constexpr const char* kCompensations[] = {"fixed", "lr_scaled", "adaptive"};

/// The factor of G G D in the correction of one tensor.
double correction_factor(const ArrivalSettings& s, Range range, std::span<const float> shared,
                         std::span<const float> sent, std::span<const float> local,
                         std::int64_t steps, double lr) {
  if (steps == 0) return 0;
  if (s.compensation == Compensation::fixed) return s.lambda / static_cast<double>(steps);
  if (!(lr > 0)) return 0;
  if (s.compensation == Compensation::lr_scaled) {
    return s.lambda / (static_cast<double>(steps) * lr);
  }
  double progress = 0;
  double correction = 0;
  for (auto i = static_cast<std::size_t>(range.begin); i < static_cast<std::size_t>(range.end);
       ++i) {
    const double g = static_cast<double>(sent[i]) - static_cast<double>(local[i]);
    const double c = g * g * (static_cast<double>(shared[i]) - static_cast<double>(sent[i])) / lr;
    progress += g * g;
    correction += c * c;
  }
  return s.lambda * std::sqrt(progress) / (std::sqrt(correction) + 1e-8) / lr;
}

}  // namespace

void declare_arrival_options(OptionTable& table) {
  table.add_choice("regions.arrival", "replace",
                   "what a region does with a fragment of the shared copy: take it; blend it with "
                   "its own values; or compensate: move it by its own progress since it sent",
                   {std::begin(kRules), std::end(kRules)});
  table.add({"regions.alpha", OptionType::real, "0.5",
             "arrival blend: weight of the region's own values", "", 0, 1});
  table.add_choice("regions.compensation", "lr_scaled",
                   "arrival compensate: form of the correction by the curvature",
                   {std::begin(kCompensations), std::end(kCompensations)});
  table.add({"regions.lambda", OptionType::real, "0.5",
             "arrival compensate: factor of the correction; 0 = own progress alone", "", 0, 1e9});
}

ArrivalSettings arrival_settings(const Config& config) {
  ArrivalSettings s;
  s.rule = choice<Arrival>(config, "regions.arrival", kRules);
  if (s.rule == Arrival::blend) s.alpha = config.real("regions.alpha");
  if (s.rule == Arrival::compensate) {
    s.compensation = choice<Compensation>(config, "regions.compensation", kCompensations);
    s.lambda = config.real("regions.lambda");
  }
  return s;
}

void apply_arrival(const ArrivalSettings& s, std::span<const Range> tensors,
                   std::span<const float> shared, std::span<const float> sent,
                   std::span<float> local, std::int64_t steps, double lr) {
  for (const Range& range : tensors) {
    const double factor = s.rule == Arrival::compensate
                              ? correction_factor(s, range, shared, sent, local, steps, lr)
                              : 0;
    for (auto i = static_cast<std::size_t>(range.begin); i < static_cast<std::size_t>(range.end);
         ++i) {
      const double t = shared[i];
      const double l = local[i];
      double value = t;
      if (s.rule == Arrival::blend) value = s.alpha * l + (1 - s.alpha) * t;
      if (s.rule == Arrival::compensate) {
        const double g = static_cast<double>(sent[i]) - l;
        value = t - g - factor * g * g * (t - static_cast<double>(sent[i]));
      }
      local[i] = static_cast<float>(value);
    }
  }
}

}  // namespace espalier::regions
