#include "espalier/protocol/regions/memory.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace espalier::regions {
namespace {

/// The most that a schedule sends in any `steps` steps, by going through it.
std::int64_t searched(const ScheduleSettings& settings, const std::vector<std::int64_t>& sizes,
                      std::int64_t steps) {
  const std::int64_t end = 4 * settings.period + 2 * steps;
  std::vector<std::int64_t> sent(static_cast<std::size_t>(end), 0);  // by step
  Schedule schedule(settings, sizes);
  for (std::int64_t step = schedule.next_slot(0); step < end; step = schedule.next_slot(step)) {
    for (const int fragment : schedule.choose(step)) {
      sent[static_cast<std::size_t>(step)] += sizes[static_cast<std::size_t>(fragment)];
    }
  }
  std::int64_t most = 0;
  for (std::int64_t begin = 0; begin + steps <= end; ++begin) {
    std::int64_t sum = 0;
    for (std::int64_t step = begin; step < begin + steps; ++step) {
      sum += sent[static_cast<std::size_t>(step)];
    }
    most = std::max(most, sum);
  }
  return most;
}

TEST(ServerMemory, KnowsTheMostThatIsSentInSomeSteps) {
  const std::vector<std::vector<std::int64_t>> models{{7}, {5, 9, 2}, {1, 20, 3, 4, 4, 8, 30}};
  for (const auto& sizes : models) {
    for (const std::int64_t period : {7, 12, 15}) {
      for (const std::int64_t steps : {1, 2, 3, 5, 8, 13, 31}) {
        for (const ScheduleKind kind :
             {ScheduleKind::together, ScheduleKind::every_step, ScheduleKind::offset}) {
          const ScheduleSettings s{.kind = kind, .period = period};
          EXPECT_EQ(most_sent(s, sizes, steps), searched(s, sizes, steps))
              << static_cast<int>(kind) << " " << sizes.size() << " " << period << " " << steps;
        }
        const ScheduleSettings s{.kind = ScheduleKind::adaptive,
                                 .period = period,
                                 .overlap = steps,
                                 .spacing = 2,
                                 .longest = period};
        EXPECT_GE(most_sent(s, sizes, steps), searched(s, sizes, steps))
            << sizes.size() << " " << period << " " << steps;
      }
    }
  }
}

}  // namespace
}  // namespace espalier::regions
