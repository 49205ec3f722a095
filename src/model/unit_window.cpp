#include "espalier/model/unit_window.h"

#include <algorithm>
#include <cmath>

namespace espalier {

std::int64_t kept_units(double fraction, std::int64_t size) {
  // 1/3 of 3 must not become 2 because the product is a little above 1.
  const double exact = fraction * static_cast<double>(size);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(exact - 1e-9)), 1, size);
}

std::vector<std::int64_t> window_units(double fraction, std::int64_t size, std::int64_t offset) {
  std::vector<std::int64_t> units(static_cast<std::size_t>(kept_units(fraction, size)));
  for (std::size_t k = 0; k < units.size(); ++k) {
    const std::int64_t unit = (offset + static_cast<std::int64_t>(k)) % size;
    units[k] = unit < 0 ? unit + size : unit;
  }
  std::ranges::sort(units);
  return units;
}

Submodel window_submodel(const Layout& layout, double fraction, std::int64_t offset) {
  Submodel submodel = Submodel::full(layout);
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (!layout.axes[axis].cuttable) continue;
    submodel.keep(static_cast<int>(axis), window_units(fraction, layout.axes[axis].size, offset));
  }
  return submodel;
}

}  // namespace espalier
