#include "espalier/record/outcome.h"

#include <algorithm>
#include <array>

#include "espalier/base/error.h"
#include "h5_io.h"

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

void archive_outcome(Archive& archive, Outcome& outcome) {
  std::string name = name_of(outcome);
  archive.value("outcome", name);
  outcome = outcome_called(name);
}

std::map<std::string, std::int64_t> count_outcomes(const std::filesystem::path& run_file) {
  const H5Handle file = h5::open_file(run_file);
  std::map<std::string, std::int64_t> counts;
  for (const std::string& name : h5::children(file)) {
    const H5Handle table = h5::open_object(file, name);
    if (!h5::is_group(table) || H5Lexists(table, "outcome", H5P_DEFAULT) <= 0) continue;
    const h5::Values outcomes =
        h5::read_dataset(h5::open_object(table, "outcome"), h5::table_rows(table));
    for (const std::string& outcome : outcomes.texts) ++counts[outcome];
  }
  return counts;
}

}  // namespace espalier
