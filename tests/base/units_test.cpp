#include "espalier/base/units.h"

#include <gtest/gtest.h>

namespace espalier {
namespace {

TEST(Megabytes, KeepFourDigitsOrTwoDecimals) {
  EXPECT_EQ(megabytes(0), "0.00 MB");
  EXPECT_EQ(megabytes(7), "0.000007 MB");
  EXPECT_EQ(megabytes(43'218), "0.04322 MB");
  EXPECT_EQ(megabytes(2'345'678), "2.346 MB");
  EXPECT_EQ(megabytes(98'765'432'100), "98765.43 MB");
}

}  // namespace
}  // namespace espalier
