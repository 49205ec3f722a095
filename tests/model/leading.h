#pragma once
// The cut in tests of costs: the leading fraction of every axis that can be cut.

#include <cmath>
#include <cstdint>
#include <vector>

#include "espalier/model/submodel.h"

namespace espalier {

inline std::vector<std::int64_t> leading_units(double fraction, std::int64_t size) {
  std::vector<std::int64_t> units(
      static_cast<std::size_t>(std::ceil(fraction * static_cast<double>(size))));
  for (std::size_t i = 0; i < units.size(); ++i) units[i] = static_cast<std::int64_t>(i);
  return units;
}

inline Submodel leading(const Layout& layout, double fraction) {
  Submodel submodel = Submodel::full(layout);
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (!layout.axes[axis].cuttable) continue;
    submodel.keep(static_cast<int>(axis), leading_units(fraction, layout.axes[axis].size));
  }
  return submodel;
}

}  // namespace espalier
