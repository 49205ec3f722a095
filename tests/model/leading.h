#pragma once
// The cut that tests of costs make: of every axis that can be cut, the leading share.

#include <cmath>
#include <cstdint>
#include <vector>

#include "espalier/model/submodel.h"

namespace espalier {

inline Submodel leading(const Layout& layout, double share) {
  Submodel submodel = Submodel::full(layout);
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (!layout.axes[axis].cuttable) continue;
    std::vector<std::int64_t> units(
        static_cast<std::size_t>(std::ceil(share * static_cast<double>(layout.axes[axis].size))));
    for (std::size_t i = 0; i < units.size(); ++i) units[i] = static_cast<std::int64_t>(i);
    submodel.keep(static_cast<int>(axis), units);
  }
  return submodel;
}

}  // namespace espalier
