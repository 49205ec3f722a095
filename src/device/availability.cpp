#include "espalier/device/availability.h"

#include <algorithm>

#include "espalier/base/random.h"

namespace espalier {

void declare_availability_options(OptionTable& table) {
  table.add({"clients.availability_period_s", OptionType::real, "3600",
             "time after which it is drawn anew who is there (device.NAME.availability)", "s", 1e-6,
             1e9});
}

Availability::Availability(const Config& config, const Fleet& fleet)
    : fleet_(&fleet),
      seed_(static_cast<std::uint64_t>(config.integer("run.seed"))),
      period_(std::llround(config.real("clients.availability_period_s") * 1e9)),
      always_(std::ranges::all_of(fleet.classes(),
                                  [](const DeviceClass& d) { return d.availability >= 1; })) {}

bool Availability::available(std::int64_t client, Nanoseconds now) const {
  const double share = fleet_->device(client).availability;
  if (share >= 1) return true;
  Stream stream(seed_, purpose("clients.availability"), static_cast<std::uint64_t>(client),
                static_cast<std::uint64_t>(now / period_));
  return stream.uniform() < share;
}

std::optional<Nanoseconds> Availability::next_change(Nanoseconds now) const {
  if (always_) return std::nullopt;
  return (now / period_ + 1) * period_;
}

}  // namespace espalier
