#include "espalier/model/plan.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <optional>
#include <span>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/wide.h"

namespace espalier {
namespace {

using Run = Plan::Run;

// A pattern includes outer factors up to this number of runs, so that not every short row costs a
// loop.
constexpr std::size_t kPatternRuns = 256;
// Below this mean length a pattern is stored value by value, without branches on the length, which
// would be mispredicted.
constexpr std::int64_t kShortRun = 4;

void append(std::vector<Run>& runs, const Run& run) {
  if (!runs.empty()) {
    Run& last = runs.back();
    if (last.source + last.length == run.source &&
        last.destination + last.length == run.destination) {
      last.length += run.length;
      return;
    }
  }
  runs.push_back(run);
}

// Goes through the kept units of an axis together with a counter 0, 1, 2, ...
struct Cursor {
  explicit Cursor(const Submodel& submodel, int axis)
      : full(submodel.is_full(axis)), units(submodel.units(axis)) {}
  // Position of `unit` among the kept units, or -1. Calls must have ascending units.
  std::int64_t find(std::int64_t unit) {
    if (full) return unit;
    while (next < units.size() && units[next] < unit) ++next;
    return next < units.size() && units[next] == unit ? static_cast<std::int64_t>(next) : -1;
  }
  bool full;
  std::span<const std::int64_t> units;
  std::size_t next = 0;
};

// Positions, in both submodels, of the units that both keep.
std::vector<Run> common_units(const Submodel& source, const Submodel& destination,
                              const Submodel* only, int axis) {
  const std::int64_t size = source.full_width(axis);
  if (source.is_full(axis) && destination.is_full(axis) && (only == nullptr || only->is_full(axis)))
    return {{0, 0, size}};
  Cursor from(source, axis);
  Cursor to(destination, axis);
  Cursor allowed(only != nullptr ? *only : destination, axis);
  std::vector<Run> common;
  for (std::int64_t unit = 0; unit < size; ++unit) {
    const std::int64_t s = from.find(unit);
    const std::int64_t d = to.find(unit);
    if (s >= 0 && d >= 0 && allowed.find(unit) >= 0) append(common, {s, d, 1});
  }
  return common;
}

// One factor of an entry's flattened shape: sizes on both sides and the common positions.
struct CommonFactor {
  std::int64_t source = 1;
  std::int64_t destination = 1;
  std::vector<Run> common;
};

bool whole(const std::vector<Run>& pattern, std::int64_t source, std::int64_t destination) {
  return pattern.size() == 1 && pattern[0].length == source && pattern[0].length == destination;
}

std::int64_t total(const std::vector<Run>& runs) {
  std::int64_t values = 0;
  for (const Run& run : runs) values += run.length;
  return values;
}

inline void copy_run(const float* source, float* destination, std::int64_t length) {
  // Two overlapping moves of fixed size cover a short run without a loop or a call.
  if (length >= 16) {
    std::memcpy(destination, source, static_cast<std::size_t>(length) * sizeof(float));
  } else if (length >= 8) {
    std::memcpy(destination, source, 32);
    std::memcpy(destination + length - 8, source + length - 8, 32);
  } else if (length >= 4) {
    std::memcpy(destination, source, 16);
    std::memcpy(destination + length - 4, source + length - 4, 16);
  } else if (length >= 2) {
    std::memcpy(destination, source, 8);
    std::memcpy(destination + length - 2, source + length - 2, 8);
  } else {
    *destination = *source;
  }
}

inline void add_run(const float* __restrict source, double weight, double* __restrict numerator,
                    double* __restrict denominator, std::int64_t length) {
  // Blocks of fixed size, because the compiler vectorises those at every optimisation level.
  constexpr std::int64_t kBlock = 8;
  std::int64_t i = 0;
  for (; i + kBlock <= length; i += kBlock) {
    for (int j = 0; j < kBlock; ++j)
      numerator[i + j] += weight * static_cast<double>(source[i + j]);
    for (int j = 0; j < kBlock; ++j) denominator[i + j] += weight;
  }
  for (; i < length; ++i) {
    numerator[i] += weight * static_cast<double>(source[i]);
    denominator[i] += weight;
  }
}

ESPALIER_WIDE void add_runs(std::span<const Run> runs, const float* source, double weight,
                            double* numerator, double* denominator) {
  for (const Run& run : runs)
    add_run(source + run.source, weight, numerator + run.destination, denominator + run.destination,
            run.length);
}

void add_singles(std::span<const Run> runs, const float* __restrict source, double weight,
                 double* __restrict numerator, double* __restrict denominator) {
  for (const Run& run : runs) {
    numerator[run.destination] += weight * static_cast<double>(source[run.source]);
    denominator[run.destination] += weight;
  }
}

}  // namespace

Plan::Plan(const BufferLayout& source, const BufferLayout& destination, const Submodel* only,
           unsigned kinds) {
  const Layout& layout = destination.layout();
  const Submodel& from = source.submodel();
  const Submodel& to = destination.submodel();
  ESPALIER_CHECK(
      source.layout().entries.size() == layout.entries.size() && from.axes() == to.axes(),
      "a plan between two layouts");

  std::vector<std::vector<Run>> common(layout.axes.size());
  for (int axis = 0; axis < to.axes(); ++axis) {
    ESPALIER_CHECK(from.full_width(axis) == to.full_width(axis), "a plan between two layouts");
    common[axis] = common_units(from, to, only, axis);
  }

  std::vector<int> order;
  for (int index = 0; index < static_cast<int>(layout.entries.size()); ++index) {
    const Entry& entry = source.layout().entries[index];
    if ((kinds >> static_cast<int>(entry.kind) & 1u) == 0) continue;
    if (!source.place(index).present || !destination.place(index).present) continue;
    if (only != nullptr && !only->has_block(entry.block)) continue;
    order.push_back(index);
  }
  std::ranges::sort(order, {}, [&](int index) { return destination.place(index).offset; });

  for (int index : order) {
    // The flattened entry is one product of factors; constants inside an axis stay whole runs.
    std::vector<CommonFactor> factors;
    for (const Dimension& dimension : layout.entries[index].dimensions)
      for (const Factor& factor : dimension) {
        if (factor.axis < 0)
          factors.push_back({factor.size, factor.size, {{0, 0, factor.size}}});
        else
          factors.push_back({from.width(factor.axis), to.width(factor.axis), common[factor.axis]});
      }

    std::vector<Run> pattern{{0, 0, 1}};
    std::int64_t source_size = 1;
    std::int64_t destination_size = 1;
    for (; !factors.empty(); factors.pop_back()) {
      const CommonFactor& outer = factors.back();
      std::vector<Run> wider;
      if (whole(pattern, source_size, destination_size)) {
        for (const Run& run : outer.common)
          append(wider, {run.source * source_size, run.destination * destination_size,
                         run.length * source_size});
      } else if (pattern.size() * static_cast<std::size_t>(total(outer.common)) <= kPatternRuns) {
        for (const Run& run : outer.common)
          for (std::int64_t i = 0; i < run.length; ++i)
            for (const Run& inner : pattern)
              append(wider,
                     {(run.source + i) * source_size + inner.source,
                      (run.destination + i) * destination_size + inner.destination, inner.length});
      } else {
        break;
      }
      pattern = std::move(wider);
      source_size *= outer.source;
      destination_size *= outer.destination;
    }

    std::vector<Row> rows{{0, 0}};
    for (const CommonFactor& factor : factors) {
      std::vector<Row> finer;
      finer.reserve(rows.size() * static_cast<std::size_t>(total(factor.common)));
      for (const Row& row : rows)
        for (const Run& run : factor.common)
          for (std::int64_t i = 0; i < run.length; ++i)
            finer.push_back({row.source * factor.source + run.source + i,
                             row.destination * factor.destination + run.destination + i});
      rows = std::move(finer);
    }
    for (Row& row : rows) row = {row.source * source_size, row.destination * destination_size};

    add({source.place(index).offset, destination.place(index).offset}, std::move(rows),
        std::move(pattern));
  }
}

void Plan::add(const Row& origin, std::vector<Row> rows, std::vector<Run> pattern) {
  if (rows.empty() || pattern.empty()) return;
  const std::int64_t values = total(pattern);
  count_ += values * static_cast<std::int64_t>(rows.size());
  for (Row& row : rows) row = {row.source + origin.source, row.destination + origin.destination};

  if (rows.size() == 1 && pattern.size() == 1 && !groups_.empty()) {
    // Whole entries that follow each other on both sides become one run.
    const Group& last = groups_.back();
    if (last.rows == 1 && last.runs == 1) {
      Run& run = pattern_[last.first_run];
      const Row& row = rows_[last.first_row];
      if (row.source + run.source + run.length == rows[0].source + pattern[0].source &&
          row.destination + run.destination + run.length ==
              rows[0].destination + pattern[0].destination) {
        run.length += pattern[0].length;
        return;
      }
    }
  }

  Group group{rows_.size(), rows.size(), pattern_.size(), pattern.size(), false};
  if (pattern.size() > 1 && values < kShortRun * static_cast<std::int64_t>(pattern.size())) {
    for (const Run& run : pattern)
      for (std::int64_t i = 0; i < run.length; ++i)
        pattern_.push_back({run.source + i, run.destination + i, 1});
    group.runs = static_cast<std::size_t>(values);
    group.single = true;
  } else {
    pattern_.insert(pattern_.end(), pattern.begin(), pattern.end());
  }
  rows_.insert(rows_.end(), rows.begin(), rows.end());
  groups_.push_back(group);
}

void Plan::copy(const float* source, float* destination) const {
  for (const Group& group : groups_) {
    const std::span<const Run> runs(pattern_.data() + group.first_run, group.runs);
    for (const Row& row : std::span(rows_.data() + group.first_row, group.rows)) {
      const float* const from = source + row.source;
      float* const to = destination + row.destination;
      if (group.single) {
        for (const Run& run : runs) to[run.destination] = from[run.source];
      } else {
        for (const Run& run : runs) copy_run(from + run.source, to + run.destination, run.length);
      }
    }
  }
}

void Plan::accumulate(Range range, const float* source, double weight, double* numerator,
                      double* denominator) const {
  const auto group_end = [&](const Group& group) {
    const Run& last = pattern_[group.first_run + group.runs - 1];
    return rows_[group.first_row + group.rows - 1].destination + last.destination + last.length;
  };
  auto group = std::ranges::upper_bound(groups_, range.begin, {}, group_end);
  for (; group != groups_.end(); ++group) {
    const std::span<const Run> runs(pattern_.data() + group->first_run, group->runs);
    const std::span<const Row> rows(rows_.data() + group->first_row, group->rows);
    const std::int64_t head = runs.front().destination;
    const std::int64_t tail = runs.back().destination + runs.back().length;
    if (rows.front().destination + head >= range.end) return;
    auto row = std::ranges::upper_bound(rows, range.begin, {},
                                        [&](const Row& r) { return r.destination + tail; });
    for (; row != rows.end() && row->destination + head < range.end; ++row) {
      const float* const from = source + row->source;
      const std::int64_t shift = row->destination - range.begin;
      if (shift + head >= 0 && row->destination + tail <= range.end) {
        (group->single ? add_singles : add_runs)(runs, from, weight, numerator + shift,
                                                 denominator + shift);
        continue;
      }
      const std::int64_t begin = range.begin - row->destination;
      const std::int64_t end = range.end - row->destination;
      auto run = std::ranges::upper_bound(runs, begin, {},
                                          [](const Run& r) { return r.destination + r.length; });
      for (; run != runs.end() && run->destination < end; ++run) {
        const std::int64_t first = std::max(run->destination, begin);
        const std::int64_t last = std::min(run->destination + run->length, end);
        const Run part{run->source + first - run->destination, first - begin, last - first};
        add_runs({&part, 1}, from, weight, numerator, denominator);
      }
    }
  }
}

std::vector<Plan::Run> Plan::runs() const {
  std::vector<Run> merged;
  for (const Group& group : groups_)
    for (const Row& row : std::span(rows_.data() + group.first_row, group.rows))
      for (const Run& run : std::span(pattern_.data() + group.first_run, group.runs))
        append(merged, {row.source + run.source, row.destination + run.destination, run.length});
  return merged;
}

namespace {

// The least recently used item is at the back. The look-up is linear, because the list is short and
// the hash is compared first.
template <typename Key, typename Value>
class Recent {
 public:
  explicit Recent(std::size_t capacity) : capacity_(capacity) {}

  template <typename Matches, typename Make>
  std::shared_ptr<const Value> get(std::uint64_t hash, Matches matches, Make make) {
    for (auto item = items_.begin(); item != items_.end(); ++item) {
      if (item->hash != hash || !matches(item->key)) continue;
      items_.splice(items_.begin(), items_, item);
      return items_.front().value;
    }
    auto [key, value] = make();
    items_.push_front({hash, std::move(key), std::move(value)});
    if (items_.size() > capacity_) items_.pop_back();
    return items_.front().value;
  }

 private:
  struct Item {
    std::uint64_t hash;
    Key key;
    std::shared_ptr<const Value> value;
  };
  std::size_t capacity_;
  std::list<Item> items_;
};

struct BufferLayoutKey {
  Submodel submodel;
  Packing packing;
};

struct PlanKey {
  BufferLayoutKey source;
  BufferLayoutKey destination;
  std::optional<Submodel> only;
  unsigned kinds;
};

bool matches(const BufferLayoutKey& key, const Submodel& submodel, Packing packing) {
  return key.packing == packing && key.submodel == submodel;
}

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  return (hash ^ value) * 0x9E3779B97F4A7C15u + (hash >> 29);
}

std::uint64_t hash_of(const Submodel& submodel, Packing packing) {
  return mix(submodel.hash(), static_cast<std::uint64_t>(packing));
}

}  // namespace

struct PlanCache::State {
  std::shared_ptr<const Layout> layout;
  Recent<BufferLayoutKey, BufferLayout> geometries;
  Recent<PlanKey, Plan> plans;
};

PlanCache::PlanCache(std::shared_ptr<const Layout> layout, std::size_t capacity)
    : state_(new State{std::move(layout), Recent<BufferLayoutKey, BufferLayout>(capacity),
                       Recent<PlanKey, Plan>(capacity)}) {
  ESPALIER_CHECK(capacity > 0);
}

PlanCache::~PlanCache() = default;

std::shared_ptr<const BufferLayout> PlanCache::buffer_layout(const Submodel& submodel,
                                                             Packing packing) {
  return state_->geometries.get(
      hash_of(submodel, packing),
      [&](const BufferLayoutKey& key) { return matches(key, submodel, packing); },
      [&] {
        return std::pair(BufferLayoutKey{submodel, packing},
                         std::make_shared<const BufferLayout>(state_->layout, submodel, packing));
      });
}

std::shared_ptr<const Plan> PlanCache::plan(const BufferLayout& source,
                                            const BufferLayout& destination, const Submodel* only,
                                            unsigned kinds) {
  std::uint64_t hash = hash_of(source.submodel(), source.packing());
  hash = mix(hash, hash_of(destination.submodel(), destination.packing()));
  hash = mix(mix(hash, kinds), only != nullptr ? only->hash() : 0);
  return state_->plans.get(
      hash,
      [&](const PlanKey& key) {
        return matches(key.source, source.submodel(), source.packing()) &&
               matches(key.destination, destination.submodel(), destination.packing()) &&
               key.kinds == kinds && key.only.has_value() == (only != nullptr) &&
               (only == nullptr || *key.only == *only);
      },
      [&] {
        PlanKey key{{source.submodel(), source.packing()},
                    {destination.submodel(), destination.packing()},
                    only != nullptr ? std::optional(*only) : std::nullopt,
                    kinds};
        return std::pair(std::move(key),
                         std::make_shared<const Plan>(source, destination, only, kinds));
      });
}

}  // namespace espalier
