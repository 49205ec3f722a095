#include "espalier/config/lists.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "espalier/base/error.h"
#include "espalier/config/options.h"

namespace espalier {

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view word = trimmed(rest.substr(0, comma));
    if (!word.empty()) words.emplace_back(word);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return words;
}

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
