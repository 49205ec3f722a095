#include "espalier/protocol/rounds/window.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"

namespace espalier::rounds {
namespace {

TEST(Window, ClosesAtTheKthUpdateWithoutGrace) {
  Window window({.min_updates = 3});
  window.open(100);
  EXPECT_FALSE(window.observe(110));
  EXPECT_FALSE(window.observe(120));
  EXPECT_FALSE(window.closes_at().has_value());
  EXPECT_TRUE(window.observe(130));
  EXPECT_EQ(window.held(), 3);
}

TEST(Window, OfAllIsNeverClosedByAnUpdate) {
  Window window({.min_updates = 0});
  window.open(0);
  for (int i = 1; i <= 50; ++i) EXPECT_FALSE(window.observe(i));
  EXPECT_FALSE(window.closes_at().has_value());
}

TEST(Window, GraceCountsFromTheKthUpdateNotFromLaterOnes) {
  Window window({.min_updates = 2, .grace = 40});
  window.open(0);
  EXPECT_FALSE(window.observe(10));
  EXPECT_FALSE(window.closes_at().has_value());
  EXPECT_FALSE(window.observe(25));
  EXPECT_EQ(window.closes_at(), 65);
  EXPECT_FALSE(window.observe(64));
  EXPECT_EQ(window.closes_at(), 65);
}

TEST(Window, DeadlineCountsFromTheOpeningAndOnlyWithAnUpdate) {
  Window window({.min_updates = 5, .deadline = 100});
  window.open(1000);
  EXPECT_FALSE(window.closes_at().has_value());  // an empty window makes no version
  EXPECT_FALSE(window.observe(1500));            // the first update comes after the deadline
  EXPECT_EQ(window.closes_at(), 1100);           // so the window closes at once
}

TEST(Window, ClosesAtTheEarlierOfGraceAndDeadline) {
  Window window({.min_updates = 1, .grace = 70, .deadline = 100});
  window.open(0);
  window.observe(20);
  EXPECT_EQ(window.closes_at(), 90);
  window.open(200);
  window.observe(290);
  EXPECT_EQ(window.closes_at(), 300);
}

TEST(Window, OpenedAgainItIsEmpty) {
  Window window({.min_updates = 1, .grace = 5});
  window.open(0);
  window.observe(1);
  window.open(50);
  EXPECT_EQ(window.held(), 0);
  EXPECT_EQ(window.opened(), 50);
  EXPECT_FALSE(window.closes_at().has_value());
}

TEST(Window, RestoredItClosesWhenTheSavedOneWould) {
  const WindowSettings settings{.min_updates = 2, .grace = 30, .deadline = 500};
  Window saved(settings);
  saved.open(7);
  saved.observe(11);
  saved.observe(13);
  ByteArchive out;
  saved.archive(out);
  const Bytes bytes = out.take();
  ByteArchive in(bytes);
  Window restored(settings);
  restored.archive(in);
  EXPECT_EQ(restored.held(), 2);
  EXPECT_EQ(restored.opened(), 7);
  EXPECT_EQ(restored.closes_at(), 43);
}

class WindowSettingsTest : public ::testing::Test {
 protected:
  static WindowSettings settings(const std::string& text) {
    OptionTable table;
    table.add({.key = "run.seed", .type = OptionType::integer, .default_value = "1", .help = ""});
    declare_device_options(table);
    declare_window_options(table);
    Config config(std::move(table));
    config.read_text("[clients]\ncount = 6\n", "the fixture");
    config.read_text(text, "the test");
    return window_settings(config, Fleet(config), config.integer("clients.per_round"));
  }
  static void expect_refused(const std::string& text, const std::string& words) {
    try {
      settings(text);
      ADD_FAILURE() << text << " was accepted";
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }
};

TEST_F(WindowSettingsTest, AreRoundedOnceToNanoseconds) {
  const WindowSettings s = settings(
      "[window]\nmin_updates = 2\ngrace_s = 0.0000000015\n"
      "deadline_s = 2.5\nmax_staleness = 0\nstale = drop\n");
  EXPECT_EQ(s.grace, 2);
  EXPECT_EQ(s.deadline, 2'500'000'000);
  EXPECT_EQ(s.max_staleness, 0);
  EXPECT_EQ(s.stale, Stale::drop);
  EXPECT_FALSE(s.max_spread.has_value());
}

TEST_F(WindowSettingsTest, MoreUpdatesThanClientsAreRefused) {
  EXPECT_EQ(settings("[window]\nmin_updates = 6\n").min_updates, 6);
  expect_refused("[window]\nmin_updates = 7\n", "only 6 clients");
  const std::string four = "per_round = 4\n[window]\nmin_updates = ";
  EXPECT_EQ(settings("[clients]\n" + four + "4\n").min_updates, 4);
  expect_refused("[clients]\n" + four + "5\n", "clients.per_round");
}

TEST_F(WindowSettingsTest, ReleaseOnArrivalNeedsANumberOfUpdates) {
  expect_refused("[window]\nrelease = arrival\n", "window.min_updates above 0");
  EXPECT_EQ(settings("[window]\nrelease = arrival\nmin_updates = 1\n").release, Release::arrival);
}

TEST_F(WindowSettingsTest, ABoundOnTheSpreadNeedsAllClients) {
  EXPECT_EQ(settings("[window]\nmax_spread = 0\n").max_spread, 0);
  expect_refused("[clients]\nper_round = 3\n[window]\nmax_spread = 2\n", "clients.per_round = 0");
}

}  // namespace
}  // namespace espalier::rounds
