#pragma once
// Which fragment all regions send at which of their steps. Decisions depend on steps alone, never
// on times, so every region follows the same ones.

#include <cstdint>
#include <optional>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/config/config.h"

namespace espalier::regions {

enum class ScheduleKind {
  together,    ///< every fragment at the end of each period
  every_step,  ///< every fragment in each step
  offset,      ///< fragment p of K at p/K of each period
  adaptive     ///< at slots of equal distance, the fragment that changes fastest (CoCoDC)
};

struct ScheduleSettings {
  ScheduleKind kind = ScheduleKind::together;
  std::int64_t period = 100;   ///< H, steps
  std::int64_t overlap = 0;    ///< tau: steps from sending to applying
  std::int64_t spacing = 0;    ///< adaptive: steps between two slots
  std::int64_t longest = 100;  ///< adaptive: steps of waiting after which a fragment goes first
};
/// regions.period, regions.exchange, regions.overlap, regions.schedule, regions.sends,
/// regions.network_use.
void declare_schedule_options(OptionTable& table);

/// Times of one step and of the exchange of one fragment, seconds; of the slowest.
struct ExchangeTimes {
  double step_s = 0;
  double exchange_s = 0;
};
/// InputError if the options contradict each other. With regions.sends = 0 the slots follow from
/// the times: N = max(K, floor(use H step / exchange)) in each period (docs/methods/cocodc.md).
ScheduleSettings schedule_settings(const Config& config, std::int64_t fragments,
                                   const ExchangeTimes& times);

class Schedule {
 public:
  /// `values`: of each fragment.
  Schedule(ScheduleSettings settings, std::vector<std::int64_t> values);
  const ScheduleSettings& settings() const { return settings_; }
  /// The first step after `step` at which fragments may be sent.
  std::int64_t next_slot(std::int64_t step) const;
  /// The fragments to send at `step`; call it once for each slot, in order.
  std::vector<int> choose(std::int64_t step);
  /// The L2 norm of the mean difference of the fragment that was sent at `sent_step`. It counts for
  /// decisions from the step on at which the fragment is applied.
  void merged(int fragment, std::int64_t sent_step, double norm);
  void archive(Archive& archive);

 private:
  struct Norm {
    int fragment = 0;
    std::int64_t sent_step = 0;
    double norm = 0;
  };
  std::optional<int> chosen(std::int64_t step) const;

  ScheduleSettings settings_;
  std::vector<std::int64_t> values_;
  std::vector<std::int64_t> last_sent_;  // 0: never
  std::vector<std::int64_t> interval_;   // before last_sent_
  std::vector<double> change_;           // per step and value
  std::vector<Norm> norms_;              // not counted yet
};

}  // namespace espalier::regions
