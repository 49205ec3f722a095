#pragma once
// What the server of `regions` does: when fragments are exchanged, over which links, how they are
// merged, and which faults the regions have.

#include <cstdint>
#include <optional>
#include <vector>

#include "espalier/device/availability.h"
#include "espalier/engine/clock.h"
#include "espalier/engine/faults.h"
#include "espalier/protocol/regions/network.h"
#include "espalier/protocol/regions/region.h"
#include "espalier/protocol/regions/schedule.h"
#include "espalier/protocol/regions/shared_copy.h"

namespace espalier::regions {

/// Weight of a region's values in a merge: 1; the samples of the region; the tokens that it
/// trained since its last exchange of the fragment; those times the tokens of a step.
enum class Weights { uniform, samples, tokens, tokens_per_step };

/// Regions that never wait (docs/methods/decoupled_diloco.md).
struct Decoupling {
  std::int64_t quorum = 1;  ///< regions whose values a merge needs
  double grace = 1;         ///< fraction of the time to spare that a merge waits for further ones
};

struct ServerSettings {
  RegionSettings regions;
  ScheduleSettings schedule;
  MergeSettings merge;
  Topology topology = Topology::star;
  Weights weights = Weights::uniform;
  bool lock_step = false;           ///< every step takes as long as the slowest region's
  std::int64_t evaluate_every = 1;  ///< versions
  std::optional<Decoupling> decoupling{};
  Faults faults;
  double lost = 0;  ///< fraction of messages that are lost
  Availability availability;
  ClockSettings clock;
};
/// regions.topology, regions.weights, regions.lock_step, regions.evaluate, regions.decoupled,
/// regions.quorum, regions.grace, faults.lost.
void declare_server_options(OptionTable& table);
/// InputError if settings contradict each other, or a region has too little memory.
ServerSettings server_settings(const Config& config, const Experiment& experiment);

/// Upper bound of the memory of a region with batches of `batch` samples.
std::int64_t region_bytes(const Experiment& experiment, const RegionSettings& settings,
                          std::int64_t batch);
/// The device class of each region.
std::vector<DeviceClass> devices_of(const Fleet& fleet);

}  // namespace espalier::regions
