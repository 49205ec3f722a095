#include "espalier/base/units.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/format.h"

namespace espalier {

std::string megabytes(std::int64_t bytes) {
  const double size = static_cast<double>(bytes) * 1e-6;
  const int magnitude = bytes == 0 ? 0 : static_cast<int>(std::floor(std::log10(std::abs(size))));
  return formatted("{:.{}f} MB", size, bytes == 0 ? 2 : std::clamp(3 - magnitude, 2, 6));
}

}  // namespace espalier
