#pragma once
// The window decides when the updates are merged, and which clients then get new tasks. Synchronous
// training is K = all (min_updates 0), asynchronous training is K = 1; all else is a setting of the
// same six values.

#include <cstdint>
#include <optional>

#include "espalier/base/archive.h"
#include "espalier/config/config.h"
#include "espalier/device/device.h"

namespace espalier::rounds {

enum class Release { merged, arrival };
enum class Stale { merge, drop, resend };

struct WindowSettings {
  std::int64_t min_updates = 0;           ///< K; 0: all outstanding
  Nanoseconds grace = 0;                  ///< after the K-th update
  std::optional<Nanoseconds> deadline{};  ///< from the window's opening
  Release release = Release::merged;
  std::optional<std::int64_t> max_staleness{};
  /// Treatment of updates beyond max_staleness: merge them with their weight, drop them, or merge
  /// them and send their client the newest version at once.
  Stale stale = Stale::merge;
  /// Tasks that a client may be ahead of the slowest (SSP's bound).
  std::optional<std::int64_t> max_spread{};

  bool is_too_stale(std::int64_t staleness) const {
    return max_staleness && staleness > *max_staleness;
  }
};
void declare_window_options(OptionTable& table);
/// Number of clients that work at the same time, by the input: clients.per_round, else
/// clients.count.
std::int64_t clients_at_once(const Config& config);
/// InputError if the settings contradict each other or the fleet.
WindowSettings window_settings(const Config& config, const Fleet& fleet, std::int64_t per_round);

class Window {
 public:
  explicit Window(const WindowSettings& settings) : settings_(settings) {}

  void open(Nanoseconds now);
  /// Counts an update at `now`; returns true if the window closes at this event (the K-th update
  /// without grace).
  bool observe(Nanoseconds now);
  /// The time at which the window closes without a further event; updates at exactly that time
  /// still count. None while the window is empty.
  std::optional<Nanoseconds> closes_at() const;
  std::int64_t held() const { return held_; }
  Nanoseconds opened() const { return opened_; }
  const WindowSettings& settings() const { return settings_; }
  void archive(Archive& archive);

 private:
  WindowSettings settings_;
  Nanoseconds opened_ = 0;
  Nanoseconds enough_ = -1;  ///< time of the K-th update
  std::int64_t held_ = 0;
};

}  // namespace espalier::rounds
