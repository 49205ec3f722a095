#pragma once
// When a client can be given work: by its class's availability (time is cut into periods, and a
// draw with the key (client, period) decides whether the client is available in one), and by a
// recorded trace, if one is given. Both must allow it. A client finishes a task that it has begun.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "espalier/device/device.h"

namespace espalier {

/// clients.availability_period_s, clients.availability_trace.
void declare_availability_options(OptionTable& table);

/// Recorded availability: lines `client begin_s end_s` (numbers from 0, separated by blanks or
/// commas; a comment begins with #). Client i follows the recorded client i modulo their number;
/// the trace repeats after its last end.
class AvailabilityTrace {
 public:
  /// DataError (file, line and the mistake) if it cannot be read.
  static AvailabilityTrace read(const std::filesystem::path& file);
  /// `origin` names the text in errors.
  static AvailabilityTrace parse(const std::string& text, const std::string& origin);

  bool available(std::int64_t client, Nanoseconds now) const;
  /// The first time after `now` at which any client becomes available or unavailable.
  Nanoseconds next_change(Nanoseconds now) const;
  /// The number of clients that it was recorded of.
  std::int64_t recorded() const { return std::ssize(stays_); }
  /// The recorded clients that may be available at one of two times and not at the other; `to` is
  /// not before `from`. A client may be there twice.
  std::vector<std::int64_t> changed(Nanoseconds from, Nanoseconds to) const;

 private:
  struct Stay {
    Nanoseconds begin = 0;
    Nanoseconds end = 0;
  };
  std::vector<std::vector<Stay>> stays_;  // of each recorded client, disjoint and in order
  std::vector<Nanoseconds> changes_;      // in order; the last one is the length of the trace
  /// Of a recorded client, at a time from the beginning of the trace to before its end.
  struct Change {
    Nanoseconds time = 0;
    std::int64_t client = 0;
  };
  std::vector<Change> changes_of_clients_;  // in order
};

class Availability {
 public:
  /// Reads the trace. Errors: as AvailabilityTrace::read.
  Availability(const Config& config, const Fleet& fleet);
  bool available(std::int64_t client, Nanoseconds now) const {
    return is_in_trace(client, now) && (always_ || is_drawn(client, period(now)));
  }
  /// The two parts of this: by the trace, and by the draw of a period.
  bool is_in_trace(std::int64_t client, Nanoseconds now) const {
    return !trace_ || trace_->available(client, now);
  }
  /// Null if there is none.
  const AvailabilityTrace* trace() const { return trace_ ? &*trace_ : nullptr; }
  bool is_drawn(std::int64_t client, std::int64_t period) const;
  std::int64_t period(Nanoseconds now) const { return now / period_; }
  /// Whether all clients are in the draws of all periods.
  bool always_drawn() const { return always_; }
  /// The next time at which any client may become available or unavailable; none if all clients are
  /// always available.
  std::optional<Nanoseconds> next_change(Nanoseconds now) const;

 private:
  const Fleet* fleet_;
  std::int64_t seed_;
  Nanoseconds period_;
  bool always_ = true;  // no class has an availability below 1
  std::optional<AvailabilityTrace> trace_;
};

}  // namespace espalier
