#pragma once
// When a client can be given work: by its class's share of the time (time is cut into periods, and
// in each a client is there or not, drawn with the key (client, period)), and by a recorded trace,
// where one is given. Both must allow it. A task that was begun is finished.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "espalier/device/device.h"

namespace espalier {

/// clients.availability_period_s, clients.availability_trace.
void declare_availability_options(OptionTable& table);

/// Who is there when, as recorded: lines `client begin_s end_s` (numbers from 0, separated by
/// blanks or commas; what follows a # is a comment). Client i does as recorded client i modulo
/// their number; after the last end it all begins anew.
class AvailabilityTrace {
 public:
  /// DataError (file, line and what is wrong) where it cannot be read.
  static AvailabilityTrace read(const std::filesystem::path& file);
  /// `origin` names the text in errors.
  static AvailabilityTrace parse(const std::string& text, const std::string& origin);

  bool available(std::int64_t client, Nanoseconds now) const;
  /// The first time after `now` at which anybody comes or goes.
  Nanoseconds next_change(Nanoseconds now) const;

 private:
  struct Stay {
    Nanoseconds begin = 0;
    Nanoseconds end = 0;
  };
  std::vector<std::vector<Stay>> stays_;  // of each recorded client, apart and in order
  std::vector<Nanoseconds> changes_;      // in order, the last one is the length
};

class Availability {
 public:
  /// Reads the trace. Errors: as AvailabilityTrace::read.
  Availability(const Config& config, const Fleet& fleet);
  bool available(std::int64_t client, Nanoseconds now) const;
  /// The next time at which anybody may come or go; none where everybody is always there.
  std::optional<Nanoseconds> next_change(Nanoseconds now) const;

 private:
  const Fleet* fleet_;
  std::int64_t seed_;
  Nanoseconds period_;
  bool always_ = true;  // by share
  std::optional<AvailabilityTrace> trace_;
};

}  // namespace espalier
