#include "espalier/model/submodel.h"

#include <gtest/gtest.h>

#include <set>

#include "espalier/base/error.h"
#include "test_layout.h"

namespace espalier {
namespace {

using testing::make_layout;
using testing::random_submodel;
using testing::selections;

TEST(Submodel, KeepingEveryUnitIsTheIdentity) {
  const auto layout = make_layout();
  Submodel submodel = Submodel::full(*layout);
  submodel.keep(testing::kHeads, {1, 3});
  EXPECT_EQ(submodel.width(testing::kHeads), 2);
  EXPECT_EQ(submodel.full_width(testing::kHeads), 4);
  EXPECT_FALSE(submodel.is_full());
  EXPECT_NE(submodel, Submodel::full(*layout));
  submodel.keep(testing::kHeads, {0, 1, 2, 3});
  EXPECT_TRUE(submodel.is_full());
  EXPECT_EQ(submodel, Submodel::full(*layout));
  EXPECT_EQ(submodel.hash(), Submodel::full(*layout).hash());
  submodel.keep_block(1, false);
  EXPECT_FALSE(submodel.is_full());
}

TEST(Submodel, TheUnionHasTheUnitsOfBothAndNoOthers) {
  const auto layout = make_layout();
  for (const Submodel& a : selections(*layout)) {
    for (const Submodel& b : selections(*layout)) {
      const Submodel both = a.united(b);
      EXPECT_TRUE(a.inside(both));
      EXPECT_TRUE(b.inside(both));
      EXPECT_EQ(both, b.united(a));
      for (int axis = 0; axis < both.axes(); ++axis) {
        std::set<std::int64_t> units;
        for (const Submodel* one : {&a, &b}) {
          for (std::int64_t unit = 0; one->is_full(axis) && unit < one->full_width(axis); ++unit) {
            units.insert(unit);
          }
          units.insert(one->units(axis).begin(), one->units(axis).end());
        }
        EXPECT_EQ(both.width(axis), std::ssize(units)) << axis;
      }
      for (int block = 0; block < both.blocks(); ++block) {
        EXPECT_EQ(both.has_block(block), a.has_block(block) || b.has_block(block));
      }
    }
  }
}

TEST(Submodel, RefusesUnitsThatAreNotASelection) {
  const auto layout = make_layout();
  Submodel submodel = Submodel::full(*layout);
  for (const std::vector<std::int64_t>& units :
       {std::vector<std::int64_t>{}, {2, 1}, {1, 1}, {-1, 2}, {3, 4}})
    EXPECT_THROW(submodel.keep(testing::kHeads, units), Error) << ::testing::PrintToString(units);
  EXPECT_TRUE(submodel.is_full());
}

TEST(Submodel, DecodeInvertsEncode) {
  const auto layout = make_layout();
  for (const Submodel& submodel : selections(*layout))
    EXPECT_EQ(Submodel::decode(*layout, submodel.encode()), submodel);
}

TEST(Submodel, CodeGrowsWithRunsNotUnits) {
  Layout layout;
  layout.add_axis("wide", 100000);
  Submodel submodel = Submodel::full(layout);
  submodel.keep(0, testing::window(90000, 50000, 100000));
  EXPECT_EQ(submodel.encode(), (std::vector<std::int64_t>{2, 0, 40000, 90000, 10000}));
}

TEST(Submodel, DamagedCodesAreDataErrors) {
  const auto layout = make_layout();
  const std::vector<std::int64_t> good = testing::rolling(*layout, 0.5, 4).encode();
  for (std::size_t cut = 0; cut < good.size(); ++cut)
    EXPECT_THROW(Submodel::decode(*layout, std::span(good).first(cut)), DataError) << cut;
  std::vector<std::int64_t> longer = good;
  longer.push_back(1);
  EXPECT_THROW(Submodel::decode(*layout, longer), DataError);
  for (std::size_t i = 0; i < good.size(); ++i)
    for (std::int64_t value : {std::int64_t{-1}, std::int64_t{1} << 62}) {
      std::vector<std::int64_t> bad = good;
      bad[i] = value;
      EXPECT_THROW(Submodel::decode(*layout, bad), DataError) << i;
    }
}

TEST(Submodel, HashSeparatesWhatEqualitySeparates) {
  const auto layout = make_layout();
  std::set<std::uint64_t> hashes;
  std::vector<Submodel> distinct;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Submodel submodel = random_submodel(*layout, seed);
    EXPECT_EQ(submodel.hash(), random_submodel(*layout, seed).hash());
    if (std::find(distinct.begin(), distinct.end(), submodel) == distinct.end())
      distinct.push_back(submodel);
    hashes.insert(submodel.hash());
  }
  EXPECT_GT(distinct.size(), 100u);
  EXPECT_EQ(hashes.size(), distinct.size());
}

TEST(Submodel, InsideComparesEveryAxisAndBlock) {
  const auto layout = make_layout();
  Submodel small = Submodel::full(*layout);
  Submodel large = Submodel::full(*layout);
  EXPECT_TRUE(small.inside(large));
  small.keep(testing::kEmbed, {1, 5});
  EXPECT_TRUE(small.inside(large));
  EXPECT_FALSE(large.inside(small));
  large.keep(testing::kEmbed, {0, 1, 5});
  EXPECT_TRUE(small.inside(large));
  large.keep(testing::kEmbed, {0, 1, 6});
  EXPECT_FALSE(small.inside(large));
  large.keep(testing::kEmbed, {1, 5});
  large.keep_block(0, false);
  EXPECT_FALSE(small.inside(large));
  EXPECT_TRUE(large.inside(small));
}

std::vector<std::int64_t> units_of(const Submodel& submodel, int axis) {
  const auto units = submodel.units(axis);
  return {units.begin(), units.end()};
}

TEST(SubsetAxis, FollowsTheAxisAroundItUntilItIsCutItself) {
  const auto layout = make_layout();
  Submodel submodel = Submodel::full(*layout);
  EXPECT_TRUE(submodel.is_full(testing::kRows));
  submodel.keep(testing::kEmbed, {1, 4, 5, 7});
  EXPECT_FALSE(submodel.is_full(testing::kRows));
  EXPECT_EQ(submodel.width(testing::kRows), 4);
  EXPECT_EQ(submodel.full_width(testing::kRows), 10);
  EXPECT_EQ(units_of(submodel, testing::kRows), (std::vector<std::int64_t>{1, 4, 5, 7}));
  EXPECT_TRUE(submodel.positions(testing::kRows).empty());

  submodel.keep(testing::kRows, {4, 7});
  EXPECT_EQ(submodel.width(testing::kRows), 2);
  EXPECT_EQ(submodel.width(testing::kEmbed), 4);
  EXPECT_EQ(submodel.positions(testing::kRows), (std::vector<std::int64_t>{1, 3}));
  submodel.keep(testing::kEmbed, {4, 6, 7});
  EXPECT_EQ(units_of(submodel, testing::kRows), (std::vector<std::int64_t>{4, 7}));
  EXPECT_EQ(submodel.positions(testing::kRows), (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(Submodel::decode(*layout, submodel.encode()), submodel);
  submodel.keep(testing::kEmbed, testing::window(0, 10, 10));
  EXPECT_EQ(submodel.positions(testing::kRows), (std::vector<std::int64_t>{4, 7}));
  EXPECT_FALSE(submodel.is_full());
}

TEST(SubsetAxis, KeepsNothingThatTheAxisAroundItHasNot) {
  const auto layout = make_layout();
  Submodel submodel = Submodel::full(*layout);
  submodel.keep(testing::kEmbed, {1, 4, 5, 7});
  EXPECT_THROW(submodel.keep(testing::kRows, {4, 6}), Error);
  submodel.keep(testing::kRows, {4, 7});
  const Submodel before = submodel;
  EXPECT_THROW(submodel.keep(testing::kEmbed, {1, 4}), Error);
  EXPECT_EQ(submodel, before);
}

TEST(SubsetAxis, HasOneFormWhicheverWayItWasReached) {
  const auto layout = make_layout();
  Submodel follows = Submodel::full(*layout);
  follows.keep(testing::kEmbed, {1, 4, 5});
  Submodel equal = follows;
  equal.keep(testing::kRows, {4});
  EXPECT_NE(equal, follows);
  EXPECT_NE(equal.hash(), follows.hash());
  EXPECT_TRUE(equal.inside(follows));
  EXPECT_FALSE(follows.inside(equal));
  equal.keep(testing::kRows, {1, 4, 5});
  EXPECT_EQ(equal, follows);
  EXPECT_EQ(equal.hash(), follows.hash());
  // The parent is cut to the same units: from then on the subset axis follows it.
  Submodel shrunk = Submodel::full(*layout);
  shrunk.keep(testing::kRows, {1, 4, 5});
  shrunk.keep(testing::kEmbed, {1, 4, 5});
  EXPECT_EQ(shrunk, follows);
  shrunk.keep(testing::kEmbed, testing::window(0, 10, 10));
  EXPECT_TRUE(shrunk.is_full());
}

TEST(SubsetAxis, ACodeWithRowsOutsideIsADataError) {
  const auto layout = make_layout();
  Submodel submodel = Submodel::full(*layout);
  submodel.keep(testing::kEmbed, {4, 5});
  submodel.keep(testing::kRows, {4});
  std::vector<std::int64_t> code = submodel.encode();
  // The three blocks come last, the rows' only run before them.
  const std::size_t first = code.size() - 3 - 2;
  ASSERT_EQ(code[first], 4);
  code[first] = 6;
  EXPECT_THROW(Submodel::decode(*layout, code), DataError);
}

}  // namespace
}  // namespace espalier
