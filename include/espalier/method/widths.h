#pragma once
// Width levels, shared by the methods that give each client a share of every layer: `fixed` levels
// stay with a client for the whole run, `dynamic` ones are redrawn for every task.

#include <cstdint>
#include <vector>

#include "espalier/protocol/rounds/rules.h"

namespace espalier {

/// method.widths, method.proportions, method.levels.
void declare_width_options(OptionTable& table);

class WidthLevels {
 public:
  /// InputError where widths and proportions do not fit each other.
  WidthLevels(const Config& config, const Experiment& experiment);
  /// The share of the client's task. Fixed: client i of n gets the level whose part of the
  /// proportions contains (i + 1/2) / n, so that equal levels are neighbours. Dynamic: drawn by
  /// (client, its n-th task).
  double share(const SendMoment& moment) const;

 private:
  std::uint64_t seed_;
  std::int64_t clients_;
  bool dynamic_;
  std::vector<double> widths_;
  std::vector<double> upper_;  // cumulated proportions, last = 1
};

/// ceil(share * size), at least 1.
std::int64_t kept_units(double share, std::int64_t size);
/// The submodel with {(offset + k) mod h, k < ceil(share h)} of every cuttable axis.
Submodel rolling_submodel(const Layout& layout, double share, std::int64_t offset);

}  // namespace espalier
