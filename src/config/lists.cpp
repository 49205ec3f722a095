#include "espalier/config/lists.h"

#include <cmath>

#include "espalier/base/error.h"

namespace espalier {

std::vector<std::int64_t> whole_numbers(const Config& config, const std::string& key,
                                        const std::string& what) {
  std::vector<std::int64_t> numbers;
  for (const double value : config.reals(key)) {
    if (value < 1 || value != std::floor(value)) {
      throw InputError(
          formatted("{}: {} is not a {}; write whole numbers above 0", key, value, what));
    }
    numbers.push_back(static_cast<std::int64_t>(value));
  }
  return numbers;
}

}  // namespace espalier
