#include "espalier/protocol/regions/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "purpose.h"

namespace espalier::regions {
namespace {

ScheduleSettings settings_of(const std::string& text, std::int64_t fragments,
                             const ExchangeTimes& times = {}) {
  OptionTable table;
  declare_schedule_options(table);
  Config config(std::move(table));
  config.read_text("[regions]\n" + text, "the test");
  return schedule_settings(config, fragments, times);
}

Schedule schedule_of(const ScheduleSettings& settings, std::int64_t fragments) {
  return {settings, std::vector<std::int64_t>(static_cast<std::size_t>(fragments), 10)};
}

/// Whether the settings send anything after `step`, from the definition.
bool sends_at(const ScheduleSettings& s, std::int64_t fragments, std::int64_t step) {
  if (step == 0) return false;
  if (s.kind == ScheduleKind::together) return step % s.period == 0;
  if (s.kind == ScheduleKind::adaptive) return step % s.spacing == 0;
  for (std::int64_t p = 0; p < fragments; ++p) {
    if (step >= p * s.period / fragments && (step - p * s.period / fragments) % s.period == 0) {
      return true;
    }
  }
  return false;
}

TEST(Schedule, NextSlotIsThatOfASearch) {
  for (const std::int64_t fragments : {1, 3, 4, 7}) {
    for (const std::int64_t period : {7, 12, 30}) {
      for (const auto kind :
           {ScheduleKind::together, ScheduleKind::offset, ScheduleKind::adaptive}) {
        const ScheduleSettings s{
            .kind = kind, .period = period, .spacing = period / fragments, .longest = period};
        const Schedule schedule = schedule_of(s, fragments);
        for (std::int64_t step = 0; step < 4 * period; ++step) {
          std::int64_t next = step + 1;
          while (!sends_at(s, fragments, next)) ++next;
          ASSERT_EQ(schedule.next_slot(step), next) << fragments << " " << period << " " << step;
        }
      }
    }
  }
}

TEST(Schedule, OffsetSendsEachFragmentOncePerPeriodAtItsOwnStep) {
  const std::int64_t K = 4, H = 30;
  Schedule schedule = schedule_of(settings_of("schedule = offset\nperiod = 30\n", K), K);
  std::vector<std::vector<std::int64_t>> sent(K);
  for (std::int64_t step = schedule.next_slot(0); step <= 5 * H; step = schedule.next_slot(step)) {
    for (const int p : schedule.choose(step)) sent[static_cast<std::size_t>(p)].push_back(step);
  }
  EXPECT_EQ(sent[0], (std::vector<std::int64_t>{30, 60, 90, 120, 150}));
  EXPECT_EQ(sent[1], (std::vector<std::int64_t>{7, 37, 67, 97, 127}));
  EXPECT_EQ(sent[2], (std::vector<std::int64_t>{15, 45, 75, 105, 135}));
  EXPECT_EQ(sent[3], (std::vector<std::int64_t>{22, 52, 82, 112, 142}));
}

TEST(Schedule, TogetherSendsAllAtTheEndOfAPeriod) {
  Schedule schedule = schedule_of(settings_of("period = 12\n", 3), 3);
  for (const std::int64_t step : {12, 24, 36}) {
    EXPECT_EQ(schedule.next_slot(step - 12), step);
    EXPECT_EQ(schedule.choose(step), (std::vector<int>{0, 1, 2}));
  }
}

TEST(Schedule, AdaptiveKeepsItsBoundsWhateverTheNorms) {
  Stream stream(1, kTest, 31);
  for (int trial = 0; trial < 3000; ++trial) {
    const std::int64_t K = 1 + stream.below(6);
    const std::int64_t H = K + stream.below(40);
    ScheduleSettings s{.kind = ScheduleKind::adaptive, .period = H};
    s.overlap = stream.below(H);
    if (trial % 2 == 0) {
      s.spacing = H / (K + stream.below(H - K + 1));
      s.longest = H;
    } else {  // stretched for slow links
      s.spacing = H / K + 1 + stream.below(5);
      s.longest = std::max(H, K * s.spacing);
    }
    Schedule schedule = schedule_of(s, K);
    std::vector<std::int64_t> last(static_cast<std::size_t>(K), 0);
    std::vector<int> first;
    for (std::int64_t step = schedule.next_slot(0); step < 12 * s.longest;
         step = schedule.next_slot(step)) {
      const std::vector<int> chosen = schedule.choose(step);
      ASSERT_LE(chosen.size(), 1U);
      for (const int p : chosen) {
        auto& sent = last[static_cast<std::size_t>(p)];
        ASSERT_TRUE(sent == 0 || sent + s.overlap <= step) << "under way";
        sent = step;
        if (std::ssize(first) < K) first.push_back(p);
        // Some fragments change far more than others.
        schedule.merged(p, step, std::exp(4 * stream.normal()));
      }
      for (const std::int64_t sent : last) {
        ASSERT_LE(step - sent, s.longest + (K - 1) * s.spacing + s.spacing - 1) << trial;
      }
    }
    for (int p = 0; p < K; ++p) ASSERT_EQ(first[static_cast<std::size_t>(p)], p) << trial;
  }
}

TEST(Schedule, AdaptiveSendsWhatChangesMostPerStepAndValue) {
  const ScheduleSettings s{
      .kind = ScheduleKind::adaptive, .period = 100, .overlap = 2, .spacing = 5, .longest = 100};
  Schedule schedule(s, {10, 1000, 10});
  // Intervals before the first exchanges: 5, 10 and 15 steps.
  EXPECT_EQ(schedule.choose(5), std::vector<int>{0});
  schedule.merged(0, 5, 4.0);  // 4 / (5 10) = 0.08
  EXPECT_EQ(schedule.choose(10), std::vector<int>{1});
  schedule.merged(1, 10, 300.0);  // 300 / (10 1000) = 0.03
  EXPECT_EQ(schedule.choose(15), std::vector<int>{2});
  schedule.merged(2, 15, 15.0);  // 15 / (15 10) = 0.1
  EXPECT_EQ(schedule.choose(20), std::vector<int>{2});
  schedule.merged(2, 20, 1.0);  // 1 / (5 10) = 0.02
  EXPECT_EQ(schedule.choose(25), std::vector<int>{0});
  schedule.merged(0, 25, 4.0);  // 4 / (20 10) = 0.02: a tie of 0 and 2, less than 1 has
  EXPECT_EQ(schedule.choose(30), std::vector<int>{1});
  schedule.merged(1, 30, 0.0);
  EXPECT_EQ(schedule.choose(35), std::vector<int>{0}) << "the first of a tie";
}

TEST(Schedule, ANormCountsFromTheStepOnAtWhichTheFragmentIsApplied) {
  const ScheduleSettings s{
      .kind = ScheduleKind::adaptive, .period = 100, .overlap = 8, .spacing = 5, .longest = 100};
  Schedule early = schedule_of(s, 4), late = schedule_of(s, 4);
  for (const std::int64_t step : {5, 10, 15, 20}) {
    const int p = early.choose(step).front();
    ASSERT_EQ(late.choose(step).front(), p);
    // One server merges at once, the other as late as it may.
    early.merged(p, step, 10.0 * p * static_cast<double>(step));
    if (step >= 15) late.merged(p - 2, step - 10, 10.0 * (p - 2) * static_cast<double>(step - 10));
  }
  for (std::int64_t step = 25; step < 60; step += 5) {
    if (step <= 30) {
      const int p = static_cast<int>(step / 5) - 3;
      late.merged(p, step - 10, 10.0 * p * static_cast<double>(step - 10));
    }
    ASSERT_EQ(early.choose(step), late.choose(step)) << step;
  }
}

TEST(Schedule, SlotIsSkippedWhileEverythingIsUnderWay) {
  const ScheduleSettings s{
      .kind = ScheduleKind::adaptive, .period = 40, .overlap = 30, .spacing = 5, .longest = 40};
  Schedule schedule = schedule_of(s, 2);
  EXPECT_EQ(schedule.choose(5), std::vector<int>{0});
  EXPECT_EQ(schedule.choose(10), std::vector<int>{1});
  for (const std::int64_t step : {15, 20, 25, 30}) EXPECT_TRUE(schedule.choose(step).empty());
  EXPECT_EQ(schedule.choose(35), std::vector<int>{0});
}

TEST(Schedule, SendsFollowFromTheTimes) {
  for (const double exchange_s : {0.01, 0.03, 0.1, 0.37, 1.0, 4.0}) {
    for (const double use : {0.1, 0.4, 1.0}) {
      const std::int64_t H = 100, K = 4;
      const ScheduleSettings s =
          settings_of(formatted("schedule = adaptive\nnetwork_use = {}\n", use), K,
                      {.step_s = 0.05, .exchange_s = exchange_s});
      const auto N = std::clamp<std::int64_t>(
          static_cast<std::int64_t>(std::floor(use * 100 * 0.05 / exchange_s)), K, H);
      const auto steps = static_cast<std::int64_t>(std::ceil(exchange_s / 0.05));
      const std::int64_t spacing = std::max(H / N, steps);
      EXPECT_EQ(s.spacing, spacing) << exchange_s << " " << use;
      EXPECT_EQ(s.longest, spacing > H / N ? std::max(H, K * spacing) : H) << exchange_s;
    }
  }
  EXPECT_EQ(
      settings_of("schedule = adaptive\nsends = 8\n", 4, {.step_s = 1, .exchange_s = 90}).spacing,
      12)
      << "a given number is not stretched";
  EXPECT_EQ(settings_of("schedule = adaptive\n", 4, {.step_s = 1, .exchange_s = 0}).spacing, 1)
      << "links without cost";
}

TEST(Schedule, ContradictionsAreRefused) {
  EXPECT_THROW(settings_of("period = 10\noverlap = 10\n", 2), InputError);
  EXPECT_THROW(settings_of("period = 3\n", 4), InputError);
  EXPECT_THROW(settings_of("period = 10\nschedule = adaptive\nsends = 3\n", 4), InputError);
  EXPECT_THROW(settings_of("period = 10\nschedule = adaptive\nsends = 11\n", 4), InputError);
}

TEST(Schedule, GoesOnFromItsState) {
  const ScheduleSettings s{
      .kind = ScheduleKind::adaptive, .period = 40, .overlap = 7, .spacing = 5, .longest = 40};
  Schedule first = schedule_of(s, 4);
  Stream stream(1, kTest, 32);
  std::int64_t step = 0;
  for (int i = 0; i < 9; ++i) {
    step = first.next_slot(step);
    for (const int p : first.choose(step)) first.merged(p, step, stream.uniform());
  }
  ByteArchive saved;
  first.archive(saved);
  const Bytes bytes = saved.take();
  Schedule second = schedule_of(s, 4);
  ByteArchive loaded(bytes);
  second.archive(loaded);
  EXPECT_TRUE(loaded.at_end());
  for (int i = 0; i < 20; ++i) {
    step = first.next_slot(step);
    const std::vector<int> chosen = first.choose(step);
    ASSERT_EQ(second.choose(step), chosen);
    for (const int p : chosen) {
      const double norm = stream.uniform();
      first.merged(p, step, norm);
      second.merged(p, step, norm);
    }
  }
}

}  // namespace
}  // namespace espalier::regions
