#include "espalier/model/buffer_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "espalier/base/error.h"
#include "test_layout.h"

namespace espalier {
namespace {

using testing::make_layout;
using testing::selections;

TEST(Layout, RefusesEntriesThatContradictIt) {
  Layout layout = *make_layout();
  const Entry good = layout.entries[0];
  EXPECT_THROW(layout.add_entry(good), Error);
  Entry other = good;
  other.name = "other";
  other.block = 3;
  EXPECT_THROW(layout.add_entry(other), Error);
  other.block = 0;
  other.dimensions[0][0].axis = 99;
  EXPECT_THROW(layout.add_entry(other), Error);
  EXPECT_THROW(layout.add_axis("empty", 0), Error);
}

TEST(BufferLayout, ShapesAreThoseOfIndexSelect) {
  const auto layout = make_layout();
  const BufferLayout full(layout, Submodel::full(*layout), Packing::dense);
  for (const Submodel& submodel : selections(*layout)) {
    const BufferLayout buffer_layout(layout, submodel, Packing::dense);
    for (int entry = 0; entry < static_cast<int>(layout->entries.size()); ++entry) {
      const BufferLayout::Place& place = buffer_layout.place(entry);
      ASSERT_EQ(place.present, submodel.has_block(layout->entries[entry].block));
      if (!place.present) {
        EXPECT_EQ(place.count, 0);
        continue;
      }
      const at::Tensor expected =
          testing::cut(*layout, entry, at::zeros(full.place(entry).shape), submodel);
      EXPECT_EQ(place.shape, expected.sizes().vec()) << layout->entries[entry].name;
      EXPECT_EQ(place.count, expected.numel());
    }
  }
}

TEST(BufferLayout, EntriesLieByKindThenBlockAndDoNotOverlap) {
  const auto layout = make_layout();
  for (const Packing packing : {Packing::aligned, Packing::dense}) {
    for (const Submodel& submodel : selections(*layout)) {
      const BufferLayout buffer_layout(layout, submodel, packing);
      std::vector<std::tuple<int, int, int>> order;
      for (int entry = 0; entry < static_cast<int>(layout->entries.size()); ++entry)
        if (buffer_layout.place(entry).present)
          order.emplace_back(static_cast<int>(layout->entries[entry].kind),
                             layout->entries[entry].block, entry);
      std::ranges::sort(order);
      std::int64_t end = 0;
      for (const auto& [kind, block, entry] : order) {
        const BufferLayout::Place& place = buffer_layout.place(entry);
        const Range segment = buffer_layout.segment(block, static_cast<Kind>(kind));
        const Range range = buffer_layout.kind_range(static_cast<Kind>(kind));
        if (packing == Packing::dense) {
          EXPECT_EQ(place.offset, end);
        } else {
          EXPECT_EQ(place.offset % 16, 0);
          EXPECT_GE(place.offset, end);
          EXPECT_LT(place.offset - end, 16);
        }
        end = place.offset + place.count;
        EXPECT_LE(segment.begin, place.offset);
        EXPECT_LE(end, segment.end);
        EXPECT_LE(range.begin, segment.begin);
        EXPECT_LE(segment.end, range.end);
      }
      EXPECT_GE(buffer_layout.size(), end);
      EXPECT_LT(buffer_layout.size() - end, packing == Packing::dense ? 1 : 16);
    }
  }
}

TEST(BufferLayout, RangesTileTheBuffer) {
  const auto layout = make_layout();
  for (const Packing packing : {Packing::aligned, Packing::dense}) {
    for (const Submodel& submodel : selections(*layout)) {
      const BufferLayout buffer_layout(layout, submodel, packing);
      std::int64_t end = 0;
      std::int64_t values = 0;
      for (int kind = 0; kind < kKinds; ++kind) {
        EXPECT_EQ(buffer_layout.kind_range(static_cast<Kind>(kind)).begin, end);
        for (int block = 0; block < 3; ++block) {
          const Range segment = buffer_layout.segment(block, static_cast<Kind>(kind));
          EXPECT_EQ(segment.begin, end);
          EXPECT_TRUE(submodel.has_block(block) || segment.size() == 0);
          end = segment.end;
        }
        EXPECT_EQ(buffer_layout.kind_range(static_cast<Kind>(kind)).end, end);
        values += buffer_layout.count(static_cast<Kind>(kind));
      }
      EXPECT_EQ(buffer_layout.size(), end);
      EXPECT_EQ(buffer_layout.count(), values);
      if (packing == Packing::dense) {
        EXPECT_EQ(buffer_layout.count(), buffer_layout.size());
      }
    }
  }
}

TEST(BufferLayout, CountsTheFullTestLayout) {
  const auto layout = make_layout();
  const BufferLayout buffer_layout(layout, Submodel::full(*layout), Packing::aligned);
  EXPECT_EQ(buffer_layout.count(Kind::trainable),
            6 * 2 * 9 + 6 + 9 * 24 + 36 * 10 + 81 + 1 + 45 + 5);
  EXPECT_EQ(buffer_layout.count(Kind::frozen), 162 + 120);
  EXPECT_EQ(buffer_layout.count(Kind::statistic), 6);
}

TEST(BufferLayout, MessagesLackFrozenEntriesAndOneLayoutHasThemAlone) {
  const auto layout = make_layout();
  for (const Submodel& submodel : selections(*layout)) {
    const BufferLayout aligned(layout, submodel, Packing::aligned);
    const BufferLayout shared(layout, submodel, Packing::shared);
    const BufferLayout frozen(layout, submodel, Packing::frozen);
    EXPECT_EQ(shared.count(Kind::frozen), 0);
    EXPECT_EQ(shared.count(), aligned.count() - aligned.count(Kind::frozen));
    EXPECT_EQ(frozen.count(), aligned.count(Kind::frozen));
    // The frozen entries are the last, and have the same places one after the other.
    const std::int64_t begin = aligned.size_without_frozen();
    EXPECT_EQ(frozen.size(), aligned.size() - begin);
    for (std::size_t i = 0; i < layout->entries.size(); ++i) {
      const auto entry = static_cast<int>(i);
      if (!frozen.place(entry).present) continue;
      EXPECT_EQ(frozen.place(entry).offset, aligned.place(entry).offset - begin);
    }
  }
}

}  // namespace
}  // namespace espalier
