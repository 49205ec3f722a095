#pragma once
// One fragment on its way: from the regions to the merge, and back to the regions.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/base/bytes.h"

namespace espalier::regions {

struct Exchange {
  /// In `handed` and `applied`: not yet, or not at all.
  static constexpr std::int64_t kWaiting = -1;
  static constexpr std::int64_t kNever = -2;

  std::int64_t number = 0, fragment = 0, sent_step = 0, applied_step = 0;
  // For each region. Times are emulated.
  std::vector<std::int64_t> handed;   ///< when the region sent its values
  std::vector<std::int64_t> arrived;  ///< when the merged values were there; kWaiting: not yet
  std::vector<std::int64_t> applied;  ///< when the region applied them
  std::vector<std::int64_t> lost;     ///< 1: its message was lost
  std::vector<std::int64_t> tokens;   ///< trained since its last exchange of the fragment
  std::vector<double> norms, weights;
  std::vector<Bytes> values;                 ///< encoded, until the merge
  std::int64_t received = 0;                 ///< messages that the server has
  std::int64_t is_begun = 0, is_merged = 0;  ///< the merge
  Bytes merged;

  bool contributes(std::size_t region) const { return handed[region] >= 0 && lost[region] == 0; }
  std::int64_t contributors() const {
    std::int64_t count = 0;
    for (std::size_t i = 0; i < handed.size(); ++i) count += contributes(i) ? 1 : 0;
    return count;
  }
  /// Whether no region has still to send its values.
  bool is_complete() const { return std::ranges::count(handed, kWaiting) == 0; }
  /// Whether no region has still to apply it.
  bool is_over() const { return std::ranges::count(applied, kWaiting) == 0; }
  void archive(Archive& archive);
};

}  // namespace espalier::regions
