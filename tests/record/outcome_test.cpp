#include "espalier/record/outcome.h"

#include <gtest/gtest.h>

#include <array>

#include "espalier/record/table.h"

namespace espalier {
namespace {

TEST(Outcome, NamesAreThoseOfTheColumnAndLeadBack) {
  // Scripts that read /tasks rely on these.
  const std::array<const char*, kOutcomes> fixed{"merged",    "dropped_stale", "out_of_memory",
                                                 "crashed",   "rejected",      "unavailable",
                                                 "unfinished"};
  for (std::size_t i = 0; i < kOutcomes; ++i) {
    const auto outcome = static_cast<Outcome>(i);
    EXPECT_EQ(name_of(outcome), fixed[i]);
    EXPECT_EQ(outcome_called(fixed[i]), outcome);
    EXPECT_LE(name_of(outcome).size(), kTextBytes);
  }
}

}  // namespace
}  // namespace espalier
