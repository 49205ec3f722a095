#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/device/device.h"

namespace espalier {
namespace {

Config config_of(const std::string& ini) {
  OptionTable table;
  declare_device_options(table);
  table.add({"run.seed", OptionType::integer, "1", "seed"});
  Config config(table);
  config.read_text(ini, "test");
  return config;
}

std::string refusal(const std::string& ini) {
  try {
    Fleet fleet(config_of(ini));
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Times, AreClosedFormsRoundedOnce) {
  // 12.5 MB at 100 Mbit/s take 1 s, and 10 ms of latency.
  EXPECT_EQ(transfer_time(100, 10, 12'500'000), 1'010'000'000);
  // 1 byte at 3 Mbit/s takes 2666.67 ns; with 0.8 ns of latency 2667.47 (each part rounded alone:
  // 2668).
  EXPECT_EQ(transfer_time(3, 0, 1), 2667);
  EXPECT_EQ(transfer_time(3, 0.0000008, 1), 2667);
  EXPECT_EQ(transfer_time(0, 10, 1'000'000'000), 10'000'000);
  EXPECT_EQ(transfer_time(0, 0, 5), 0);
  EXPECT_EQ(transfer_mbps(12'500'000, 1e9), 100);
  EXPECT_EQ(compute_time({.name = "d", .gflops = 50}, 100'000'000'000), 2'000'000'000);
  EXPECT_EQ(compute_time({.name = "d", .gflops = 3}, 5), 2);
}

TEST(Times, AbsurdOnesAreRefused) {
  EXPECT_THROW(compute_time({.name = "d", .gflops = 1e-6}, 9'000'000'000'000'000'000), InputError);
  EXPECT_THROW(transfer_time(1e-9, 0, 1'000'000'000'000), InputError);
}

TEST(Classes, MemoryIsInDecimalMegabytes) {
  EXPECT_EQ(memory_bytes({.name = "d", .memory_mb = 2.3}), 2'300'000);
  EXPECT_EQ(memory_bytes({.name = "d", .memory_mb = 0.000001}), 1);
  EXPECT_EQ(memory_bytes({.name = "d", .memory_mb = 0}), 0);
}

TEST(Fleet, DefaultIsTenLaptops) {
  const Fleet fleet(config_of(""));
  ASSERT_EQ(fleet.size(), 10);
  for (int client = 0; client < 10; ++client) EXPECT_EQ(fleet.device(client).name, "laptop");
  EXPECT_EQ(fleet.device(0).memory_mb, 0);
  EXPECT_EQ(fleet.device(0).gflops, 50);
  EXPECT_EQ(fleet.device(0).down_mbps, 100);
  EXPECT_EQ(fleet.device(0).up_mbps, 20);
  EXPECT_EQ(fleet.device(0).latency_ms, 10);
}

TEST(Fleet, PatternIsRepeatedInOrderOfClient) {
  const Fleet fleet(
      config_of("[clients]\ncount = 6\nfleet = 2*fast, slow\n"
                "[device.fast]\ngflops = 100\n[device.slow]\ngflops = 2\nmemory_mb = 64\n"));
  const std::vector<std::string> expected{"fast", "fast", "slow", "fast", "fast", "slow"};
  ASSERT_EQ(fleet.size(), 6);
  for (int client = 0; client < 6; ++client) EXPECT_EQ(fleet.device(client).name, expected[client]);
  EXPECT_EQ(fleet.device(2).gflops, 2);
  EXPECT_EQ(memory_bytes(fleet.device(2)), 64'000'000);
  EXPECT_EQ(fleet.device(2).up_mbps, 20) << "what a class leaves out is as in laptop";
}

TEST(Fleet, ABuiltInClassCanBeChanged) {
  const Fleet fleet(config_of("[clients]\ncount = 1\n[device.laptop]\ngflops = 7\n"));
  EXPECT_EQ(fleet.device(0).gflops, 7);
  EXPECT_EQ(fleet.device(0).down_mbps, 100);
}

TEST(Fleet, LinksOfOneClientLeaveTheOthersAlone) {
  Fleet fleet(
      config_of("[clients]\ncount = 4\nfleet = fast, slow\n"
                "[device.fast]\ngflops = 100\n[device.slow]\nlatency_ms = 3\nlink_modes = 0.5\n"));
  fleet.set_link_rates(1, 8);
  fleet.set_link_rates(2, 3);
  fleet.set_link_rates(1, 6);
  const std::vector<double> down{100, 6, 3, 100}, up{20, 6, 3, 20}, gflops{100, 50, 100, 50};
  for (int client = 0; client < 4; ++client) {
    EXPECT_EQ(fleet.device(client).name, client % 2 == 0 ? "fast" : "slow");
    EXPECT_EQ(fleet.device(client).down_mbps, down[client]);
    EXPECT_EQ(fleet.device(client).up_mbps, up[client]);
    EXPECT_EQ(fleet.device(client).gflops, gflops[client]);
  }
  EXPECT_EQ(fleet.device_at(1, 0).up_mbps, 3) << "modes multiply the client's own rate";
}

TEST(Fleet, RefusalsNameWhatToChange) {
  EXPECT_NE(refusal("[clients]\ncount = 10\nfleet = 4*laptop\n").find("does not divide"),
            std::string::npos);
  EXPECT_NE(refusal("[clients]\ncount = 3\nfleet = 4*laptop\n").find("clients.count = 3"),
            std::string::npos);
  EXPECT_NE(refusal("[clients]\ncount = 4\nfleet = 4*phone\n").find("[device.phone]"),
            std::string::npos);
  EXPECT_NE(refusal("[clients]\ncount = 4\nper_round = 5\n").find("clients.per_round = 5"),
            std::string::npos);
  for (const char* part : {"0*laptop", "-1*laptop", "x*laptop", "2*", "2laptop",
                           "99999999999999999999*laptop", "2.0*laptop", ",laptop", " , "}) {
    EXPECT_NE(
        refusal(std::string("[clients]\ncount = 4\nfleet = ") + part + "\n").find("clients.fleet"),
        std::string::npos)
        << part;
  }
}

DeviceClass at(const Fleet& fleet, std::int64_t client, std::int64_t version) {
  return fleet.device_at(client, version);
}

TEST(Modes, ScaleEveryRateForSomeRounds) {
  const Fleet fleet(
      config_of("[clients]\ncount = 200\nfleet = d\nmodes_every = 5\n"
                "[device.d]\ngflops = 8\ngflops_conv = 16\nmemory_gbps = 4\noverhead_us = 10\n"
                "modes = 1, 0.5, 0.25\nlink_modes = 1, 0.125\ndown_mbps = 80\nup_mbps = 40\n"));
  std::map<double, int> speeds, links;
  int changed = 0;
  for (std::int64_t client = 0; client < fleet.size(); ++client) {
    const DeviceClass first = at(fleet, client, 0);
    const double speed = first.gflops / 8;
    const double link = first.down_mbps / 80;
    ++speeds[speed];
    ++links[link];
    EXPECT_EQ(first.gflops_conv, 16 * speed);
    EXPECT_EQ(first.gflops_matmul, 0) << "still that of gflops";
    EXPECT_EQ(first.memory_gbps, 4 * speed);
    EXPECT_EQ(first.overhead_us, 10 / speed);
    EXPECT_EQ(first.up_mbps, 40 * link);
    for (std::int64_t version = 1; version < 5; ++version) {
      EXPECT_EQ(at(fleet, client, version).gflops, first.gflops);
      EXPECT_EQ(at(fleet, client, version).up_mbps, first.up_mbps);
    }
    changed += at(fleet, client, 5).gflops != first.gflops ? 1 : 0;
  }
  // Binomial counts of 200 draws: six standard deviations of 6.7, 7.1 and 6.7.
  for (const double speed : {1.0, 0.5, 0.25}) EXPECT_NEAR(speeds[speed], 200 / 3.0, 40);
  for (const double link : {1.0, 0.125}) EXPECT_NEAR(links[link], 100, 42);
  EXPECT_NEAR(changed, 400 / 3.0, 40);
}

TEST(Modes, WithoutThemAClassIsWhatItIs) {
  const Fleet fleet(config_of("[clients]\ncount = 1\n[device.laptop]\ngflops = 0.7\n"));
  EXPECT_EQ(at(fleet, 0, 0).gflops, 0.7);
  EXPECT_EQ(at(fleet, 0, 1000).down_mbps, 100);
  const Fleet one(config_of(
      "[clients]\ncount = 1\n[device.laptop]\ngflops = 0.7\nmodes = 1\nlink_modes = 1\n"));
  EXPECT_EQ(at(one, 0, 7).gflops, 0.7);
  EXPECT_EQ(at(one, 0, 7).up_mbps, 20);
}

}  // namespace
}  // namespace espalier
