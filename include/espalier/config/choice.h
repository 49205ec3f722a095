#pragma once
// Choice options as values of an enumeration.

#include <algorithm>
#include <iterator>

#include "espalier/base/error.h"
#include "espalier/config/config.h"

namespace espalier {

/// The value of a choice option whose choices are `names`, in the order of the enumeration.
template <class Enum, std::size_t count>
Enum choice(const Config& config, const char* key, const char* const (&names)[count]) {
  const auto found = std::find(std::begin(names), std::end(names), config.text(key));
  ESPALIER_CHECK(found != std::end(names), "{} is {}", key, config.text(key));
  return static_cast<Enum>(found - std::begin(names));
}

}  // namespace espalier
