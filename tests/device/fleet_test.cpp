#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/device/device.h"

namespace espalier {
namespace {

Config config_of(const std::string& ini) {
  OptionTable table;
  declare_device_options(table);
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

}  // namespace
}  // namespace espalier
