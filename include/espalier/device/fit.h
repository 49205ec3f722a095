#pragma once
// Fits the rates of a device class (device.h, the roofline) to measured training steps, and
// measures the agreement of predicted and measured times.

#include <span>
#include <vector>

#include "espalier/device/device.h"

namespace espalier {

/// A training step and its seconds.
struct MeasuredStep {
  TrainingCost cost;
  double seconds = 0;
};

/// The class with the rates, bandwidth and fixed cost that fit the steps best; its other fields are
/// the defaults. Robust and non-negative: iteratively reweighted least squares reduces the sum of
/// absolute relative errors over the times per FLOP of each kind, per byte and per block, none of
/// them below zero; the previous iterate decides whether arithmetic or memory bounds a block. The
/// fitted attention is never faster than matrix products. At least one step, each of more than 0 s.
DeviceClass fit_rates(std::span<const MeasuredStep> steps);

/// Agreement of predicted and measured values, all above 0.
struct Agreement {
  double median_error = 0;      ///< of |predicted / measured - 1|
  double rank_correlation = 0;  ///< Spearman's; NaN of fewer than two values
};
Agreement agreement(std::span<const double> predicted, std::span<const double> measured);

}  // namespace espalier
