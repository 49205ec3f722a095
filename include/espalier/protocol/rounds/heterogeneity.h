#pragma once
// The clients' update times of the full model: how far they lie apart in any fleet, and fleets
// whose links are made for a given spread of them (docs/devices.md). A time is download, compute
// and upload of one plain task with the whole model, on the client's device without modes or
// faults.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "espalier/protocol/rounds/task_costs.h"
#include "espalier/record/run_file.h"

namespace espalier::rounds {

class FullUpdates {
 public:
  /// Needs the partition, and unchanged devices; the experiment must outlive it.
  explicit FullUpdates(const Experiment& experiment);
  /// Bytes, operations and times of the client's update, as a task with the base objective costs.
  const Flight& of(std::int64_t client);

 private:
  const Experiment& experiment_;
  TaskCosts costs_;
  SentTask sent_;                                                          // the whole model
  std::map<std::pair<const DeviceClass*, std::int64_t>, Flight> flights_;  // by device and samples
};

/// Of all clients. The paper of AdaptCL (Zhou et al. 2021) has sigma and H; these definitions are
/// ours.
struct Heterogeneity {
  Nanoseconds shortest = 0, longest = 0;  ///< at least 1
  double sigma = 1;                       ///< longest / shortest
  double mean_idle = 0;                   ///< H: mean of 1 - shortest / own time
};
/// Empty if the experiment has no partition (--check without data).
std::optional<Heterogeneity> heterogeneity(const Experiment& experiment);
/// A line of --check.
std::string description(const std::optional<Heterogeneity>& h);
/// Table /method/fleet, with one row.
const TableSchema& fleet_schema();
void record(RunFile& records, const Heterogeneity& h);

/// clients.spread, clients.sigma, clients.fastest_s.
void declare_spread_options(OptionTable& table);
/// With clients.spread = linear: sets the links of the clients so that their update times are
/// evenly spaced, in order of client, from clients.fastest_s to clients.sigma times it. Does
/// nothing without a partition. InputError if no link makes a client's time short enough.
void spread_links(const Config& config, Experiment& experiment);

}  // namespace espalier::rounds
