#pragma once
// When a client can be given work. Time is cut into periods; in each, a client is there with its
// class's availability, drawn with the key (client, period). A task that was begun is finished.

#include <cstdint>
#include <optional>

#include "espalier/device/device.h"

namespace espalier {

/// clients.availability_period_s.
void declare_availability_options(OptionTable& table);

class Availability {
 public:
  Availability(const Config& config, const Fleet& fleet);
  bool available(std::int64_t client, Nanoseconds now) const;
  /// The end of the present period; none where everybody is always there.
  std::optional<Nanoseconds> next_change(Nanoseconds now) const;

 private:
  const Fleet* fleet_;
  std::uint64_t seed_;
  Nanoseconds period_;
  bool always_ = true;
};

}  // namespace espalier
