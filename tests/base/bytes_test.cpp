#include "espalier/base/bytes.h"

#include <gtest/gtest.h>

#include <initializer_list>

namespace espalier {
namespace {

Bytes bytes_of(std::initializer_list<unsigned> values) {
  Bytes bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

// IEEE 754, little-endian: 1.5 is 0x3fc00000, -2.25 is 0xc0100000.
TEST(Bytes, AreReadAndWrittenAsFloats) {
  Bytes bytes = bytes_of({0, 0, 0xc0, 0x3f, 0, 0, 0, 0});
  const Bytes& constant = bytes;
  ASSERT_EQ(floats_of(constant).size(), 2u);
  EXPECT_EQ(floats_of(constant)[0], 1.5f);
  EXPECT_EQ(floats_of(constant)[1], 0.0f);
  floats_of(bytes)[1] = -2.25f;
  EXPECT_EQ(bytes, bytes_of({0, 0, 0xc0, 0x3f, 0, 0, 0x10, 0xc0}));
  const Bytes none;
  EXPECT_TRUE(floats_of(none).empty());
}

}  // namespace
}  // namespace espalier
