#pragma once
// From measured training steps to the rates of a device class (device.h, the roofline), and how
// well predicted times agree with measured ones.

#include <span>
#include <vector>

#include "espalier/device/device.h"

namespace espalier {

/// A training step and the seconds that it took.
struct MeasuredStep {
  TrainingCost cost;
  double seconds = 0;
};

/// The class with the rates, bandwidth and fixed cost that fit the steps best; its other fields are
/// the defaults. Robust and non-negative: the sum of absolute relative errors is made small by
/// iteratively reweighted least squares over the times per FLOP of each kind, per byte and per
/// block, none of them below zero; which of arithmetic and memory bounds a block is taken from the
/// iterate before. Attention comes out no faster than matrix products. At least one step, each of
/// more than 0 s.
DeviceClass fit_rates(std::span<const MeasuredStep> steps);

/// How predicted values agree with measured ones, all above 0.
struct Agreement {
  double median_error = 0;      ///< of |predicted / measured - 1|
  double rank_correlation = 0;  ///< Spearman's; NaN of fewer than two values
};
Agreement agreement(std::span<const double> predicted, std::span<const double> measured);

}  // namespace espalier
