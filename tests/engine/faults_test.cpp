#include "espalier/engine/faults.h"

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/base/error.h"

namespace espalier {
namespace {

Faults make_faults(const std::string& text, int seed = 1) {
  OptionTable table;
  table.add({.key = "run.seed", .type = OptionType::integer, .default_value = "1", .help = ""});
  table.add(
      {.key = "clients.count", .type = OptionType::integer, .default_value = "10", .help = ""});
  declare_fault_options(table);
  Config config(std::move(table));
  config.read_text("[run]\nseed = " + std::to_string(seed) + "\n[faults]\n" + text, "the test");
  return Faults(config);
}

constexpr std::int64_t kTasks = 20000;

/// Of kTasks tasks of client 4, the fraction for which `happens` holds.
template <class Happens>
double fraction(const Faults& faults, const Happens& happens) {
  std::int64_t times = 0;
  for (std::int64_t task = 0; task < kTasks; ++task)
    times += happens(faults.fault(4, task)) ? 1 : 0;
  return static_cast<double>(times) / kTasks;
}

/// Five deviations of a binomial fraction.
double bound(double p) { return 5 * std::sqrt(p * (1 - p) / kTasks); }

TEST(Faults, HappenAsOftenAsAskedFor) {
  const Faults faults = make_faults(
      "crash = 0.2\nlate = 0.3\nlate_factor = 7\ntwice = 0.05\nnot_finite = 0.5\n"
      "vanish = 0.1\n");
  EXPECT_NEAR(fraction(faults, [](const InjectedFault& f) { return f.crashes; }), 0.2, bound(0.2));
  EXPECT_NEAR(fraction(faults, [](const InjectedFault& f) { return f.slowdown == 7; }), 0.3,
              bound(0.3));
  EXPECT_NEAR(fraction(faults, [](const InjectedFault& f) { return f.twice; }), 0.05, bound(0.05));
  EXPECT_NEAR(fraction(faults, [](const InjectedFault& f) { return f.not_finite; }), 0.5,
              bound(0.5));
  // A client that crashed cannot vanish as well.
  EXPECT_NEAR(fraction(faults, [](const InjectedFault& f) { return f.vanishes; }), 0.08,
              bound(0.08));
  EXPECT_EQ(fraction(faults, [](const InjectedFault& f) { return f.vanishes && f.crashes; }), 0);
}

TEST(Faults, AreIndependentOfEachOther) {
  const Faults faults = make_faults("late = 0.4\ntwice = 0.5\n");
  const double both =
      fraction(faults, [](const InjectedFault& f) { return f.twice && f.slowdown > 1; });
  EXPECT_NEAR(both, 0.2, bound(0.2));
}

TEST(Faults, OfATaskAreTheSameWheneverAskedForAndOthersWithAnotherSeed) {
  const Faults faults = make_faults("crash = 0.5\n"), same = make_faults("crash = 0.5\n"),
               other = make_faults("crash = 0.5\n", 2);
  int differ = 0;
  for (std::int64_t task = 100; task-- > 0;) {
    EXPECT_EQ(faults.fault(4, task).crashes, same.fault(4, task).crashes);
    differ += faults.fault(4, task).crashes != other.fault(4, task).crashes ? 1 : 0;
  }
  EXPECT_GT(differ, 20);
}

TEST(Faults, HappenToTheNamedClientsOnly) {
  const Faults faults = make_faults("crash = 1\nclients = 3, 7\n");
  for (std::int64_t client = 0; client < 10; ++client) {
    EXPECT_EQ(faults.fault(client, 0).crashes, client == 3 || client == 7) << client;
  }
  EXPECT_THROW(make_faults("crash = 1\nclients = 10\n"), InputError);
  EXPECT_THROW(make_faults("crash = 1\nclients = 1.5\n"), InputError);
}

TEST(Faults, ByDefaultThereAreNone) {
  const Faults faults = make_faults("");
  EXPECT_EQ(fraction(faults,
                     [](const InjectedFault& f) {
                       return f.crashes || f.vanishes || f.twice || f.not_finite || f.slowdown != 1;
                     }),
            0);
}

}  // namespace
}  // namespace espalier
