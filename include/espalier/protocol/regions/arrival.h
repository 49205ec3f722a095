#pragma once
// What a region does with a fragment of the shared copy that arrives some steps after the region
// sent its own values: it takes it, blends it with its own, or moves it by its own progress since
// then (docs/methods/cocodc.md).

#include <span>

#include "espalier/config/config.h"
#include "espalier/model/buffer_layout.h"

namespace espalier::regions {

enum class Arrival { replace, blend, compensate };
enum class Compensation { fixed, lr_scaled, adaptive };

struct ArrivalSettings {
  Arrival rule = Arrival::replace;
  double alpha = 0.5;  ///< blend: weight of the region's own values
  Compensation compensation = Compensation::lr_scaled;
  double lambda = 0.5;
  bool needs_sent_values() const { return rule == Arrival::compensate; }
};
/// regions.arrival, regions.alpha, regions.compensation, regions.lambda.
void declare_arrival_options(OptionTable& table);
ArrivalSettings arrival_settings(const Config& config);

/// The values that a region goes on with, into `local`, of shared copy T, own values L (`local`
/// before) and, for compensate, own values S when it sent, `steps` steps ago at learning rate lr:
///   replace     T
///   blend       alpha L + (1 - alpha) T
///   compensate  T - G - c, with G = S - L and D = T - S:
///     fixed      c = lambda G G D / steps
///     lr_scaled  c = lambda G G D / (steps lr)
///     adaptive   c = lambda |G| / (|C| + 1e-8) C, with C = G G D / lr, for each tensor
/// In double, rounded once. All buffers are dense, of one fragment; `tensors` are its entries.
void apply_arrival(const ArrivalSettings& settings, std::span<const Range> tensors,
                   std::span<const float> shared, std::span<const float> sent,
                   std::span<float> local, std::int64_t steps, double lr);

}  // namespace espalier::regions
