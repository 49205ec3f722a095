#pragma once
// One fragment on its way: from the regions to the merge, and back to the regions.

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/base/bytes.h"
#include "espalier/device/device.h"
#include "espalier/record/table.h"

namespace espalier::regions {

struct Exchange {
  /// In vectors of times and steps: not yet, or not at all.
  static constexpr std::int64_t kWaiting = -1;
  static constexpr std::int64_t kNever = -2;

  Exchange() = default;
  /// `present`: for each region, whether it takes part.
  Exchange(std::int64_t number, std::int64_t fragment, std::int64_t slot,
           const std::vector<bool>& present);

  std::int64_t number = 0, fragment = 0;
  std::int64_t slot = 0;  ///< the step at which the fragment was chosen
  // For each region. Times are emulated.
  std::vector<std::int64_t> handed,
      sent_step;                      ///< when the region sent its values, and after which step
  std::vector<std::int64_t> arrived;  ///< when the merged values were there
  std::vector<std::int64_t> applied, applied_step;  ///< when the region applied them
  std::vector<std::int64_t> lost;                   ///< 1: its message was lost
  std::vector<std::int64_t> received;               ///< 1: the server has its values
  std::vector<std::int64_t> tokens, steps;          ///< trained since its last exchange
  std::vector<double> norms, weights;
  std::vector<Bytes> values;                 ///< encoded, until the merge
  std::int64_t is_begun = 0, is_merged = 0;  ///< the merge
  Bytes merged;

  /// Whether the region has sent its values, and they are not lost.
  bool contributes(std::size_t region) const { return handed[region] >= 0 && lost[region] == 0; }
  /// The regions that contribute, in order.
  std::vector<std::int64_t> contributors() const;
  /// Whether no region has still to send its values.
  bool is_complete() const { return std::ranges::count(handed, kWaiting) == 0; }
  /// Whether no region has still to apply it.
  bool is_over() const { return std::ranges::count(applied, kWaiting) == 0; }
  void archive(Archive& archive);
};

/// The exchanges that are not over, by number.
using Exchanges = std::map<std::int64_t, Exchange>;
void archive_exchanges(Archive& archive, Exchanges& exchanges);

/// The region's row of /exchanges. `up`, `down`: bytes of its messages; `stall`: how long it
/// waited.
Row exchange_row(const Exchange& exchange, std::int64_t region, std::int64_t up, std::int64_t down,
                 Nanoseconds stall);

}  // namespace espalier::regions
