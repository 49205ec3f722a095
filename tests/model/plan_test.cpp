#include "espalier/model/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "purpose.h"
#include "test_layout.h"

namespace espalier {
namespace {

using testing::full_offsets;
using testing::make_layout;
using testing::random_submodel;
using testing::rolling;
using testing::selections;

std::vector<float> random_values(std::int64_t count, std::uint64_t seed) {
  Stream stream(seed, kTest, 1);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(stream.normal());
  return values;
}

// Destination offset -> source offset, by looking each value up in the full model.
std::map<std::int64_t, std::int64_t> expected_moves(const BufferLayout& source,
                                                    const BufferLayout& destination,
                                                    const Submodel* only, unsigned kinds = ~0u) {
  const auto layout = source.layout_ptr();
  const BufferLayout full(layout, Submodel::full(*layout), Packing::dense);
  std::map<std::int64_t, std::int64_t> source_of;
  const auto from = full_offsets(full, source);
  for (std::size_t s = 0; s < from.size(); ++s)
    if (from[s] >= 0) source_of[from[s]] = static_cast<std::int64_t>(s);
  std::vector<bool> allowed(full.size(), only == nullptr);
  if (only != nullptr)
    for (std::int64_t id : full_offsets(full, BufferLayout(layout, *only, Packing::dense)))
      allowed[id] = true;
  for (int kind = 0; kind < kKinds; ++kind) {
    const Range range = full.kind_range(static_cast<Kind>(kind));
    if ((kinds >> kind & 1u) == 0)
      std::fill(allowed.begin() + range.begin, allowed.begin() + range.end, false);
  }
  std::map<std::int64_t, std::int64_t> moves;
  const auto to = full_offsets(full, destination);
  for (std::size_t d = 0; d < to.size(); ++d)
    if (to[d] >= 0 && allowed[to[d]] && source_of.contains(to[d]))
      moves[static_cast<std::int64_t>(d)] = source_of[to[d]];
  return moves;
}

// Checks a plan: its runs, copy() and accumulate() over ranges of odd sizes.
void expect_moves(const Plan& plan, const BufferLayout& source, const BufferLayout& destination,
                  const std::map<std::int64_t, std::int64_t>& moves) {
  ASSERT_EQ(plan.count(), static_cast<std::int64_t>(moves.size()));
  std::vector<Plan::Run> runs;
  for (const auto& [d, s] : moves) {
    if (!runs.empty() && runs.back().destination + runs.back().length == d &&
        runs.back().source + runs.back().length == s)
      ++runs.back().length;
    else
      runs.push_back({s, d, 1});
  }
  ASSERT_EQ(plan.runs(), runs);
  std::vector<std::pair<std::int64_t, std::int64_t>> moved;
  plan.for_each_value([&](std::int64_t s, std::int64_t d) { moved.emplace_back(d, s); });
  ASSERT_EQ(moved, decltype(moved)(moves.begin(), moves.end()));

  const std::vector<float> from = random_values(source.size(), 1);
  const std::vector<float> before = random_values(destination.size(), 2);
  std::vector<float> expected = before;
  for (const auto& [d, s] : moves) expected[d] = from[s];
  std::vector<float> to = before;
  plan.copy(from.data(), to.data());
  ASSERT_EQ(to, expected);

  const double weight = 1.0 / 3.0;
  for (const std::int64_t step :
       {std::int64_t{1}, std::int64_t{7}, std::int64_t{101}, destination.size() + 1}) {
    std::vector<double> numerator(destination.size(), 0.125);
    std::vector<double> denominator(destination.size(), 0.5);
    std::vector<double> expected_numerator = numerator;
    std::vector<double> expected_denominator = denominator;
    for (const auto& [d, s] : moves) {
      const volatile double product = weight * static_cast<double>(from[s]);
      expected_numerator[d] += product;
      expected_denominator[d] += weight;
    }
    // From the back: ranges may be processed in any order.
    for (std::int64_t begin = (destination.size() - 1) / step * step; begin >= 0; begin -= step) {
      const Range range{begin, std::min(begin + step, destination.size())};
      plan.accumulate(range, from.data(), weight, numerator.data() + begin,
                      denominator.data() + begin);
    }
    ASSERT_EQ(numerator, expected_numerator) << step;
    ASSERT_EQ(denominator, expected_denominator) << step;
  }
}

TEST(Plan, BetweenAnyTwoSubmodelsMovesWhatIndexSelectPicks) {
  const auto layout = make_layout();
  const std::vector<Submodel> all = selections(*layout);
  for (std::size_t a = 0; a < all.size(); ++a)
    for (std::size_t b = 0; b < all.size(); ++b) {
      const BufferLayout source(layout, all[a], a % 2 == 0 ? Packing::aligned : Packing::dense);
      const BufferLayout destination(layout, all[b],
                                     b % 3 == 0 ? Packing::dense : Packing::aligned);
      SCOPED_TRACE(::testing::Message() << "from " << a << " to " << b);
      ASSERT_NO_FATAL_FAILURE(expect_moves(Plan(source, destination), source, destination,
                                           expected_moves(source, destination, nullptr)));
    }
}

TEST(Plan, RespectsOnlyAndKinds) {
  const auto layout = make_layout();
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const BufferLayout source(layout, random_submodel(*layout, 3 * seed, false), Packing::dense);
    const BufferLayout destination(layout, random_submodel(*layout, 3 * seed + 1, false),
                                   Packing::aligned);
    Submodel only = random_submodel(*layout, 3 * seed + 2);
    only.keep(testing::kClasses, {1, 4});
    const unsigned kinds = seed % 2 == 0 ? ~0u : 1u << static_cast<int>(Kind::trainable);
    ASSERT_NO_FATAL_FAILURE(expect_moves(Plan(source, destination, &only, kinds), source,
                                         destination,
                                         expected_moves(source, destination, &only, kinds)));
  }
}

TEST(Plan, MovesNothingBetweenDisjointSubmodels) {
  const auto layout = make_layout();
  Submodel stem = Submodel::full(*layout);
  stem.keep_block(1, false);
  stem.keep_block(2, false);
  Submodel rest = Submodel::full(*layout);
  rest.keep_block(0, false);
  const BufferLayout source(layout, stem, Packing::dense);
  const BufferLayout destination(layout, rest, Packing::dense);
  const Plan plan(source, destination);
  EXPECT_EQ(plan.count(), 0);
  EXPECT_TRUE(plan.runs().empty());
  ASSERT_NO_FATAL_FAILURE(expect_moves(plan, source, destination, {}));
}

TEST(Plan, GatherThenScatterIsTheIdentityOnKeptAndLeavesOthers) {
  const auto layout = make_layout();
  const BufferLayout full(layout, Submodel::full(*layout), Packing::aligned);
  const std::vector<float> values = random_values(full.size(), 3);
  for (const Submodel& submodel : selections(*layout)) {
    for (const Packing packing : {Packing::aligned, Packing::dense}) {
      const BufferLayout small(layout, submodel, packing);
      std::vector<float> part(small.size(), 0);
      Plan(full, small).copy(values.data(), part.data());
      std::vector<float> back(full.size(), -7);
      Plan(small, full).copy(part.data(), back.data());
      std::vector<float> expected(full.size(), -7);
      for (std::int64_t id : full_offsets(full, small))
        if (id >= 0) expected[id] = values[id];
      EXPECT_EQ(back, expected);
    }
  }
}

TEST(Plan, EqualDenseGeometriesAreOneRun) {
  const auto layout = make_layout();
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    const BufferLayout buffer_layout(layout, random_submodel(*layout, seed, false), Packing::dense);
    EXPECT_EQ(Plan(buffer_layout, buffer_layout).runs(),
              (std::vector<Plan::Run>{{0, 0, buffer_layout.size()}}));
  }
}

// Long enough for every way a run can be moved: single values, short runs, long runs, wide
// registers.
TEST(Plan, MovesWideEntriesExactly) {
  Layout wide;
  wide.add_axis("rows", 37);
  wide.add_axis("columns", 700);
  wide.add_block("all");
  wide.add_entry({"weight", Kind::trainable, 0, {wide.along(0), wide.along(1)}, {}});
  wide.add_entry({"kernels", Kind::trainable, 0, {wide.along(0), wide.along(1, 5)}, {}});
  const auto layout = std::make_shared<const Layout>(wide);
  const BufferLayout full(layout, Submodel::full(*layout), Packing::aligned);
  for (const Submodel& submodel :
       {rolling(*layout, 0.5, 0), rolling(*layout, 0.5, 500), rolling(*layout, 0.03, 698),
        random_submodel(*layout, 1, false), random_submodel(*layout, 4, false)}) {
    const BufferLayout small(layout, submodel, Packing::dense);
    ASSERT_NO_FATAL_FAILURE(
        expect_moves(Plan(full, small), full, small, expected_moves(full, small, nullptr)));
    ASSERT_NO_FATAL_FAILURE(
        expect_moves(Plan(small, full), small, full, expected_moves(small, full, nullptr)));
  }
}

TEST(PlanCache, KeepsEqualsAndDropsTheLeastRecentlyUsed) {
  const auto layout = make_layout();
  PlanCache cache(layout, 2);
  const Submodel a = rolling(*layout, 0.5, 0);
  const Submodel b = rolling(*layout, 0.5, 4);
  const auto first = cache.buffer_layout(a, Packing::dense);
  EXPECT_EQ(cache.buffer_layout(rolling(*layout, 0.5, 0), Packing::dense), first);
  const auto aligned = cache.buffer_layout(a, Packing::aligned);
  EXPECT_NE(aligned, first);
  EXPECT_EQ(aligned->packing(), Packing::aligned);
  EXPECT_EQ(cache.buffer_layout(a, Packing::dense), first);
  EXPECT_EQ(cache.buffer_layout(b, Packing::dense)->submodel(), b);  // drops the aligned one
  EXPECT_EQ(cache.buffer_layout(a, Packing::dense), first);
  EXPECT_NE(cache.buffer_layout(a, Packing::aligned), aligned);
}

TEST(PlanCache, TellsPlansApartByEveryArgument) {
  const auto layout = make_layout();
  PlanCache cache(layout);
  const auto full = cache.buffer_layout(Submodel::full(*layout), Packing::aligned);
  const auto small = cache.buffer_layout(rolling(*layout, 0.5, 4), Packing::dense);
  Submodel only = Submodel::full(*layout);
  only.keep(testing::kClasses, {2});
  const auto gather = cache.plan(*full, *small);
  const auto scatter = cache.plan(*small, *full);
  const auto masked = cache.plan(*full, *small, &only);
  const auto trained = cache.plan(*full, *small, nullptr, 1u);
  EXPECT_EQ(gather->runs(), Plan(*full, *small).runs());
  EXPECT_EQ(scatter->runs(), Plan(*small, *full).runs());
  EXPECT_EQ(masked->runs(), Plan(*full, *small, &only).runs());
  EXPECT_EQ(trained->runs(), Plan(*full, *small, nullptr, 1u).runs());
  EXPECT_EQ(cache.plan(*full, *small), gather);
  EXPECT_EQ(cache.plan(*small, *full), scatter);
  EXPECT_EQ(cache.plan(*full, *small, &only), masked);
  EXPECT_EQ(cache.plan(*full, *small, nullptr, 1u), trained);
}

}  // namespace
}  // namespace espalier
