#pragma once
// The window says when enough updates are there to merge, and whom to send on. Synchronous training
// is K = all (min_updates 0); asynchronous is K = 1; everything between is a setting of the same
// six values.

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
  Nanoseconds grace = 0;                  ///< after the K-th
  std::optional<Nanoseconds> deadline{};  ///< from the window's opening
  Release release = Release::merged;
  std::optional<std::int64_t> max_staleness{};
  /// What happens to updates beyond max_staleness: merged with their weight, dropped, or merged
  /// while their client is sent the newest version at once.
  Stale stale = Stale::merge;
  /// Tasks that a client may be ahead of the slowest (SSP's bound).
  std::optional<std::int64_t> max_spread{};

  bool is_too_stale(std::int64_t staleness) const {
    return max_staleness && staleness > *max_staleness;
  }
};
void declare_window_options(OptionTable& table);
/// Clients that work at once, as far as the input says: clients.per_round, else clients.count.
std::int64_t clients_at_once(const Config& config);
/// InputError where the settings contradict each other or the fleet.
WindowSettings window_settings(const Config& config, const Fleet& fleet, std::int64_t per_round);

class Window {
 public:
  explicit Window(const WindowSettings& settings) : settings_(settings) {}

  void open(Nanoseconds now);
  /// An update counted at `now`; returns true if the window closes at this very event (K-th without
  /// grace).
  bool observe(Nanoseconds now);
  /// The time at which the window closes by itself, as known now; arrivals at that very instant
  /// still count. None while it is empty.
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
