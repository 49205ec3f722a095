#include "espalier/protocol/rounds/window.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/device/emulated_time.h"

namespace espalier::rounds {

void declare_window_options(OptionTable& table) {
  table.add({"window.min_updates", OptionType::integer, "0",
             "number of updates that closes the window; 0 = all outstanding", "", 0, 1e9});
  table.add({"window.grace_s", OptionType::real, "0",
             "time for further updates after window.min_updates have arrived", "s", 0, 1e9});
  table.add({"window.deadline_s", OptionType::real, "0",
             "time after its opening at which a window with at least one update closes; 0 = no "
             "deadline",
             "s", 0, 1e9});
  table.add_choice("window.release", "merged",
                   "time of a client's next task: after its update was merged, or after it arrived",
                   {"merged", "arrival"});
  table.add({"window.max_staleness", OptionType::integer, "-1",
             "number of versions that an update may be behind; -1 = any", "versions", -1, 1e9});
  table.add_choice(
      "window.stale", "merge",
      "treatment of an update beyond window.max_staleness: merge it, drop it, or merge it and send "
      "its client the newest version at once",
      {"merge", "drop", "resend"});
  table.add({"window.max_spread", OptionType::integer, "-1",
             "number of tasks that a client may be ahead of the slowest; -1 = any", "tasks", -1,
             1e9});
}

std::int64_t clients_at_once(const Config& config) {
  const std::int64_t per_round = config.integer("clients.per_round");
  return per_round > 0 ? per_round : config.integer("clients.count");
}

WindowSettings window_settings(const Config& config, const Fleet& fleet, std::int64_t per_round) {
  WindowSettings s;
  s.min_updates = config.integer("window.min_updates");
  s.grace = std::llround(config.real("window.grace_s") * 1e9);
  const double deadline = config.real("window.deadline_s");
  if (deadline > 0) s.deadline = std::llround(deadline * 1e9);
  s.release = config.text("window.release") == "arrival" ? Release::arrival : Release::merged;
  const std::int64_t staleness = config.integer("window.max_staleness");
  if (staleness >= 0) s.max_staleness = staleness;
  const std::string stale = config.text("window.stale");
  s.stale = stale == "drop" ? Stale::drop : stale == "resend" ? Stale::resend : Stale::merge;
  const std::int64_t spread = config.integer("window.max_spread");
  if (spread >= 0) s.max_spread = spread;
  if (s.max_spread && per_round > 0) {
    throw InputError(
        "window.max_spread compares all clients, so all must work: set clients.per_round = 0");
  }
  const std::int64_t most = per_round > 0 ? per_round : fleet.size();
  if (s.min_updates > most) {
    throw InputError(
        formatted("window.min_updates = {} can never be reached: only {} clients work at once; "
                  "lower it or raise {}",
                  s.min_updates, most, per_round > 0 ? "clients.per_round" : "clients.count"));
  }
  if (s.min_updates == 0 && s.release == Release::arrival) {
    throw InputError(
        "window.release = arrival needs a window.min_updates above 0: a window that waits for all "
        "clients would never close");
  }
  return s;
}

void Window::open(Nanoseconds now) {
  opened_ = now;
  enough_ = -1;
  held_ = 0;
}

bool Window::observe(Nanoseconds now) {
  ++held_;
  if (settings_.min_updates == 0 || held_ < settings_.min_updates) return false;
  if (enough_ < 0) enough_ = now;
  return settings_.grace == 0;
}

std::optional<Nanoseconds> Window::closes_at() const {
  if (held_ == 0) return std::nullopt;
  std::optional<Nanoseconds> at;
  if (enough_ >= 0) at = later(enough_, settings_.grace);
  if (settings_.deadline) {
    const Nanoseconds deadline = later(opened_, *settings_.deadline);
    at = at ? std::min(*at, deadline) : deadline;
  }
  return at;
}

void Window::archive(Archive& archive) {
  archive.value("opened", opened_);
  archive.value("enough", enough_);
  archive.value("held", held_);
}

}  // namespace espalier::rounds
