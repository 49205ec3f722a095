#include "espalier/engine/resources.h"

#include <gtest/gtest.h>

#include "espalier/base/error.h"

namespace espalier {
namespace {

constexpr double kNanosecondsPerByte = 8000;  // at 1 Mbit/s

TEST(Fifo, WorkThatComesTogetherWaitsForWhatCameFirst) {
  Fifo link("test.mbps", 4, kNanosecondsPerByte);  // 2000 ns a byte
  EXPECT_EQ(link.take(1'000, 10), 21'000);
  EXPECT_EQ(link.take(1'000, 3), 27'000);
  EXPECT_EQ(link.take(26'000, 1), 29'000);
}

TEST(Fifo, IsIdleUntilTheNextWorkComes) {
  Fifo link("test.mbps", 8, kNanosecondsPerByte);  // 1000 ns a byte
  EXPECT_EQ(link.take(0, 2), 2'000);
  EXPECT_EQ(link.take(50'000, 2), 52'000);
}

TEST(Fifo, RoundsEachPieceOfWorkOnce) {
  Fifo processor("test.gflops", 3, 1);
  EXPECT_EQ(processor.take(0, 1), 0);  // a third of a nanosecond
  EXPECT_EQ(processor.take(0, 2), 1);  // two thirds
  EXPECT_EQ(processor.take(0, 2), 2);
}

TEST(Fifo, WithoutARateNothingWaits) {
  Fifo link("test.mbps", 0, kNanosecondsPerByte);
  EXPECT_EQ(link.take(5, 1'000'000'000'000), 5);
  EXPECT_EQ(link.take(6, 1), 6);
}

TEST(Fifo, RefusesACenturyOfWork) {
  Fifo link("test.mbps", 1e-6, kNanosecondsPerByte);  // 8e9 ns a byte
  EXPECT_THROW(link.take(0, 1'000'000'000), InputError);
}

TEST(Fifo, RestoredItIsBusyAsLongAsTheSavedOne) {
  Fifo saved("test.mbps", 8, kNanosecondsPerByte), restored = saved;
  saved.take(0, 9);
  ByteArchive out;
  saved.archive(out, "link");
  const Bytes bytes = out.take();
  ByteArchive in(bytes);
  restored.archive(in, "link");
  EXPECT_EQ(restored.take(0, 1), 10'000);
}

}  // namespace
}  // namespace espalier
