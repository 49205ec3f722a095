#include "espalier/device/availability.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "espalier/base/error.h"

namespace espalier {
namespace {

constexpr Nanoseconds kSecond = 1'000'000'000;

TEST(Trace, SaysWhoIsThereAndBeginsAnew) {
  const auto trace = AvailabilityTrace::parse(
      "# who, from, to\n0 0 10\n0, 20, 30   # later\n\n2 5 12.5\n2 12 15\n", "test");
  const auto there = [&](std::int64_t client, double at) {
    return trace.available(client, static_cast<Nanoseconds>(at * kSecond));
  };
  for (const double lap : {0.0, 30.0, 3000.0}) {
    EXPECT_TRUE(there(0, lap));
    EXPECT_TRUE(there(0, lap + 9.999));
    EXPECT_FALSE(there(0, lap + 10)) << "the end does not belong to it";
    EXPECT_TRUE(there(0, lap + 20));
    EXPECT_TRUE(there(0, lap + 29.999));
    EXPECT_FALSE(there(1, lap + 7)) << "has no line";
    EXPECT_FALSE(there(2, lap + 4.999));
    EXPECT_TRUE(there(2, lap + 5));
    EXPECT_TRUE(there(2, lap + 13)) << "of two that overlap, the later one";
    EXPECT_FALSE(there(2, lap + 15));
  }
  for (const double at : {3.0, 7.0, 16.0, 25.0}) {
    EXPECT_EQ(there(3, at), there(0, at)) << "clients beyond the recorded ones take their turns";
    EXPECT_EQ(there(302, at), there(2, at));
  }
}

TEST(Trace, NamesTheNextChange) {
  const auto trace = AvailabilityTrace::parse("0 3 10\n1 5 12\n", "test");
  const auto next = [&](std::int64_t s) { return trace.next_change(s * kSecond) / kSecond; };
  EXPECT_EQ(next(0), 3);
  EXPECT_EQ(next(3), 5);
  EXPECT_EQ(next(11), 12);
  EXPECT_EQ(next(12), 15);  // the first of the second period
  EXPECT_EQ(next(24 + 9), 24 + 10);
}

TEST(Trace, KnowsWhoChanges) {
  const auto trace =
      AvailabilityTrace::parse("0 3 10\n1 5 12\n1 20 31\n3 0 7\n3 30 31\n4 0 31\n", "test");
  ASSERT_EQ(trace.recorded(), 5);
  for (std::int64_t from = 0; from < 80; ++from) {
    for (std::int64_t to = from; to < 150; ++to) {
      const auto changed = trace.changed(from * kSecond, to * kSecond);
      for (std::int64_t client = 0; client < 5; ++client) {
        const bool differs =
            trace.available(client, from * kSecond) != trace.available(client, to * kSecond);
        const bool is_named = std::ranges::find(changed, client) != changed.end();
        ASSERT_TRUE(is_named || !differs) << client << " from " << from << " to " << to;
      }
    }
  }
  EXPECT_EQ(trace.changed(3 * kSecond, 9 * kSecond), (std::vector<std::int64_t>{1, 3}));
  EXPECT_TRUE(trace.changed(12 * kSecond, 19 * kSecond).empty());
}

TEST(Trace, RefusesWhatIsNone) {
  const auto refusal = [](const std::string& text) -> std::string {
    try {
      AvailabilityTrace::parse(text, "file");
    } catch (const DataError& error) {
      return error.what();
    }
    return "accepted";
  };
  for (const char* line :
       {"0 1", "0 1 2 3", "a 1 2", "-1 1 2", "0 2 2", "0 -1 2", "0 1 nan", "0 1 1e12", "0.5 1 2"}) {
    EXPECT_NE(refusal("0 0 1\n" + std::string(line) + "\n").find("file, line 2"), std::string::npos)
        << line;
  }
  EXPECT_NE(refusal("# nobody\n").find("no line"), std::string::npos);
}

TEST(Availability, TraceAndShareMustBothAllowIt) {
  OptionTable table;
  declare_device_options(table);
  declare_availability_options(table);
  table.add({"run.seed", OptionType::integer, "1", "seed"});
  Config config(table);
  config.read_text(
      "[clients]\ncount = 2\nfleet = never, laptop\n[device.never]\navailability = 0\n", "test");
  const Fleet fleet(config);
  const Availability by_class(config, fleet);
  EXPECT_FALSE(by_class.available(0, 0));
  EXPECT_TRUE(by_class.available(1, 0));
  EXPECT_EQ(by_class.next_change(0), 3600 * kSecond);

  const auto file =
      std::filesystem::temp_directory_path() / formatted("espalier_availability_test_{}", getpid());
  std::ofstream(file) << "0 0 10\n1 20 30\n";
  config.set("clients.availability_trace", file.string(), "test");
  const Availability both(config, fleet);
  std::filesystem::remove(file);
  EXPECT_FALSE(both.available(0, 5 * kSecond));
  EXPECT_FALSE(both.available(1, 5 * kSecond));
  EXPECT_TRUE(both.available(1, 25 * kSecond));
  EXPECT_EQ(both.next_change(0), 10 * kSecond);
  EXPECT_EQ(both.next_change(3590 * kSecond), 3600 * kSecond) << "both change then";
  EXPECT_EQ(both.next_change(3600 * kSecond), 3610 * kSecond);

  config.set("clients.availability_trace", "there is no such file", "test");
  EXPECT_THROW(Availability(config, fleet), DataError);
}

TEST(Trace, PassesOverAMarkAndAHeader) {
  const std::string lines = "0 3 10\n1 5 12\n";
  for (const std::string head :
       {"client,begin_s,end_s\n", "# recorded in May\n\nclient begin end\n", "\xEF\xBB\xBF",
        "\xEF\xBB\xBFid, from, to\r\n"}) {
    const auto trace = AvailabilityTrace::parse(head + lines, "test");
    for (const std::int64_t at : {2, 4, 7, 11}) {
      const Nanoseconds now = at * 1'000'000'000;
      EXPECT_EQ(trace.available(0, now), 3 <= at && at < 10) << head << at;
      EXPECT_EQ(trace.available(1, now), 5 <= at && at < 12) << head << at;
    }
  }
}

TEST(Trace, TakesNoOtherLineForAHeader) {
  for (const char* text : {"0 3 10\nclient begin end\n", "a b c\nd e f\n0 3 10\n", "client 3 10\n",
                           "client begin\n0 3 10\n"}) {
    EXPECT_THROW(AvailabilityTrace::parse(text, "test"), DataError) << text;
  }
}

}  // namespace
}  // namespace espalier
