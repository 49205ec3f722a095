// A sealed header survives the trip unchanged, and a change of any single bit is noticed.

#include "espalier/comm/wire_header.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/error.h"

namespace espalier {
namespace {

Bytes bytes_of(const WireHeader& header) {
  Bytes bytes(sizeof(header));
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

const Bytes kHead{std::byte{1}, std::byte{2}, std::byte{3}};

WireHeader sample() {
  WireHeader header;
  header.type = 3;
  header.subtype = -7;
  header.from = -1;
  header.to = (std::int64_t{1} << 40) + 5;
  header.id = std::int64_t{1} << 62;
  header.payload_bytes = (std::int64_t{1} << 33) + 1;
  header.chunk_bytes = 1000;
  header.sequence = 42;
  seal_header(header, kHead);
  return header;
}

Status status_of(const Bytes& bytes) {
  try {
    open_header(bytes);
  } catch (const Error& error) {
    return error.status();
  }
  return Status::done;
}

TEST(WireHeader, RoundTripKeepsEveryField) {
  auto bytes = bytes_of(sample());
  bytes.insert(bytes.end(), kHead.begin(), kHead.end());
  const WireHeader header = open_header(bytes);
  EXPECT_EQ(header.type, 3);
  EXPECT_EQ(header.subtype, -7);
  EXPECT_EQ(header.from, -1);
  EXPECT_EQ(header.to, (std::int64_t{1} << 40) + 5);
  EXPECT_EQ(header.id, std::int64_t{1} << 62);
  EXPECT_EQ(header.head_bytes, 3);
  EXPECT_EQ(header.payload_bytes, (std::int64_t{1} << 33) + 1);
  EXPECT_EQ(header.chunk_bytes, 1000);
  EXPECT_EQ(header.sequence, 42);
  EXPECT_NO_THROW(check_head(header, kHead));
}

TEST(WireHeader, EveryFlippedBitIsNoticed) {
  const auto good = bytes_of(sample());
  ASSERT_EQ(status_of(good), Status::done);
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    auto bad = good;
    bad[bit / 8] ^= std::byte(1U << (bit % 8));
    EXPECT_EQ(status_of(bad), Status::internal) << "bit " << bit;
  }
}

TEST(WireHeader, ShortMessageIsRefused) {
  auto bytes = bytes_of(sample());
  bytes.pop_back();
  EXPECT_EQ(status_of(bytes), Status::internal);
  EXPECT_EQ(status_of({}), Status::internal);
}

TEST(WireHeader, ImpossibleSizesAreRefusedEvenIfSealed) {
  WireHeader header = sample();
  header.payload_bytes = -1;
  seal_header(header, kHead);
  EXPECT_EQ(status_of(bytes_of(header)), Status::internal);
  header = sample();
  header.chunk_bytes = 0;
  seal_header(header, kHead);
  EXPECT_EQ(status_of(bytes_of(header)), Status::internal);
}

TEST(WireHeader, AnotherHeadIsNoticed) {
  const WireHeader header = sample();
  auto other = kHead;
  other[1] ^= std::byte{1};
  EXPECT_THROW(check_head(header, other), Error);
  other = kHead;
  other.push_back(std::byte{0});
  EXPECT_THROW(check_head(header, other), Error);
}

}  // namespace
}  // namespace espalier
