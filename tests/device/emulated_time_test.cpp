#include "espalier/device/emulated_time.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "espalier/base/error.h"

namespace espalier {
namespace {

TEST(EmulatedTime, SumsProductsAndRoundingsEndAtTheLatestTime) {
  EXPECT_EQ(later(3, 4), 7);
  EXPECT_EQ(later(kLatest - 5, 5), kLatest);
  EXPECT_EQ(later(kLatest - 5, 6), kLatest);
  EXPECT_EQ(later(kLatest, kLatest), kLatest);
  EXPECT_EQ(times(6, 7), 42);
  EXPECT_EQ(times(0, kLatest), 0);
  EXPECT_EQ(times(3'000'000'000, 4'000'000'000), kLatest);
  EXPECT_EQ(rounded(2.5), 3);
  EXPECT_EQ(rounded(9.2e18), 9'200'000'000'000'000'000);
  EXPECT_EQ(rounded(0x1p63), kLatest);
  EXPECT_EQ(rounded(1e300), kLatest);
  EXPECT_EQ(rounded(std::numeric_limits<double>::quiet_NaN()), kLatest);
}

TEST(EmulatedTime, BeyondACenturyTheOptionIsNamed) {
  constexpr Nanoseconds kAlmost = 3'155'000'000'000'000'000;
  EXPECT_EQ(within_century(kAlmost, "x"), kAlmost);
  try {
    within_century(kAlmost + 2'000'000'000'000'000, "device.odd.gflops");
    FAIL() << "accepted";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("device.odd.gflops"), std::string::npos);
  }
}

TEST(EmulatedTime, OperationsAreCountedOrRefused) {
  TrainingCost small, large;
  small.step_flops = 7;
  large.step_flops = 3'000'000'000'000;
  EXPECT_EQ(flops_of(std::vector<Steps>{{small, 5}, {large, 2}}), 6'000'000'000'035);
  EXPECT_THROW(flops_of(std::vector<Steps>{{small, 5}, {large, 4'000'000}}), InputError);
  EXPECT_THROW(flops_of(std::vector<Steps>{{large, 3'000'000}, {large, 300'000}}), InputError);
}

TEST(EmulatedTime, WorkThatCannotBeCountedTakesNoNegativeTime) {
  TrainingCost step;
  step.step_flops = 5'000'000'000'000'000;
  DeviceClass device;
  device.gflops = 1e12;
  const std::vector<Steps> steps{{step, 2'000}};
  EXPECT_THROW(compute_time(device, steps), InputError);
}

}  // namespace
}  // namespace espalier
