#pragma once
// Moves values between any two buffer layouts of one model layout (the full model has one of them).
// The rows of an entry have one common pattern of runs, so a plan is much smaller than the values
// that it moves, also for random units. Gather, scatter and accumulate are single passes over it,
// ascending in the destination.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "espalier/model/buffer_layout.h"

namespace espalier {

/// Sets of kinds for plans. Payloads carry the trained entries; those that a search freezes
/// (Stage) are trained ones of the model.
inline constexpr unsigned kTrained = 1u << static_cast<unsigned>(Kind::trainable);
inline constexpr unsigned kStatistic = 1u << static_cast<unsigned>(Kind::statistic);
inline constexpr unsigned kFrozen = 1u << static_cast<unsigned>(Kind::frozen);

class Plan {
 public:
  struct Run {
    std::int64_t source = 0;
    std::int64_t destination = 0;
    std::int64_t length = 0;
    friend bool operator==(const Run&, const Run&) = default;
  };

  /// Covers the values that both layouts have. `only`, if given, restricts it further (e.g. to the
  /// classes that a client has seen). `kinds` is a bit set of (1 << Kind), of the source's entries.
  Plan(const BufferLayout& source, const BufferLayout& destination, const Submodel* only = nullptr,
       unsigned kinds = ~0u);

  /// destination[...] = source[...]: gather (full to small) and scatter (small to full); values of
  /// the destination outside the plan do not change. The buffers must not overlap.
  void copy(const float* source, float* destination) const;
  /// For destination positions inside `range`: numerator[d - range.begin] += weight * source[s] (in
  /// double), denominator[d - range.begin] += weight. Ranges may be processed in any order. The
  /// buffers must not overlap. Product and sum are rounded separately, on every instruction set.
  void accumulate(Range range, const float* source, double weight, double* numerator,
                  double* denominator) const;

  /// All runs, ascending in the destination, merged if contiguous on both sides.
  std::vector<Run> runs() const;
  /// Calls work(source, destination) for each value that the plan moves, ascending in the
  /// destination.
  template <class Work>
  void for_each_value(const Work& work) const {
    for (const Run& run : runs()) {
      for (std::int64_t i = 0; i < run.length; ++i) work(run.source + i, run.destination + i);
    }
  }
  /// Values that the plan moves.
  std::int64_t count() const { return count_; }

 private:
  struct Row {
    std::int64_t source = 0;
    std::int64_t destination = 0;
  };
  /// Every row of rows_[first_row, first_row + rows) moves the runs pattern_[first_run, first_run +
  /// runs), which are relative to the row.
  struct Group {
    std::size_t first_row = 0;
    std::size_t rows = 0;
    std::size_t first_run = 0;
    std::size_t runs = 0;
    bool single = false;  ///< every run is one value long
  };

  void add(const Row& origin, std::vector<Row> rows, std::vector<Run> pattern);

  std::vector<Group> groups_;
  std::vector<Row> rows_;
  std::vector<Run> pattern_;
  std::int64_t count_ = 0;
};

/// Buffer layouts and plans of one model layout, cached by submodel hash (the least recently used
/// is dropped first), so that a round over many clients with few distinct submodels builds each
/// once. For one thread.
class PlanCache {
 public:
  /// Keeps up to `capacity` buffer layouts and up to `capacity` plans.
  explicit PlanCache(std::shared_ptr<const Layout> layout, std::size_t capacity = 64);
  ~PlanCache();
  std::shared_ptr<const BufferLayout> buffer_layout(const Submodel& submodel, Packing packing);
  /// As Plan's constructor; both buffer layouts must be of the cache's layout.
  std::shared_ptr<const Plan> plan(const BufferLayout& source, const BufferLayout& destination,
                                   const Submodel* only = nullptr, unsigned kinds = ~0u);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace espalier
