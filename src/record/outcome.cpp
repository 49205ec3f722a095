#include "espalier/record/outcome.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier {
namespace {

const std::array<std::string, kOutcomes>& names() {
  static const std::array<std::string, kOutcomes> all{"merged",    "dropped_stale", "out_of_memory",
                                                      "crashed",   "rejected",      "unavailable",
                                                      "unfinished"};
  return all;
}

}  // namespace

const std::string& name_of(Outcome outcome) { return names()[static_cast<std::size_t>(outcome)]; }

Outcome outcome_called(const std::string& name) {
  const auto place = std::ranges::find(names(), name);
  ESPALIER_CHECK(place != names().end(), "no outcome is called '{}'", name);
  return static_cast<Outcome>(place - names().begin());
}

}  // namespace espalier
