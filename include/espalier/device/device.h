#pragma once
// Device classes, the fleet that assigns one to each client, and the virtual time that work takes
// on them (64-bit nanoseconds; download, compute and upload are each rounded once).

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "espalier/config/config.h"
#include "espalier/model/cost.h"

namespace espalier {

using Nanoseconds = std::int64_t;
/// In nanoseconds; a longer time is a mistake of units.
inline constexpr double kHundredYears = 100 * 365.25 * 86400 * 1e9;
inline double seconds(Nanoseconds t) { return static_cast<double>(t) * 1e-9; }

struct DeviceClass {
  std::string name;
  double memory_mb = 0;  ///< 0: not capped
  double gflops = 1;     ///< effective rate of all work without a rate of its own
  double down_mbps = 0;  ///< megabit per second; 0: no cost
  double up_mbps = 0;
  double latency_ms = 0;    ///< per message
  double availability = 1;  ///< fraction of the time in which it can be given work
  // The roofline; if all of it is 0, work takes flops / gflops.
  double gflops_conv = 0;       ///< of convolutions; 0: gflops
  double gflops_matmul = 0;     ///< of matrix products; 0: gflops
  double gflops_attention = 0;  ///< 0: gflops
  double memory_gbps = 0;       ///< memory bandwidth, gigabyte per second; 0: not limited
  double overhead_us = 0;       ///< fixed cost of each block in each step
  std::int64_t batch = 0;       ///< samples in a batch; 0: train.batch
  // Factors, one of which a client draws every clients.modes_every rounds; empty: 1.
  std::vector<double> modes{};       ///< of its speed: rates are multiplied by it, the fixed cost
                                     ///< is divided by it
  std::vector<double> link_modes{};  ///< of down_mbps and up_mbps
};

/// The factors that a client has drawn for a task.
struct Modes {
  double speed = 1;
  double link = 1;
};

/// Training steps of equal size.
struct Steps {
  const TrainingCost& cost;  ///< of one of them
  std::int64_t count = 0;
};

/// Whether any of the roofline's fields is set.
bool has_roofline(const DeviceClass& device);
/// Latency plus 8 x bytes / mbps (mbps 0: latency alone), rounded once.
Nanoseconds transfer_time(double mbps, double latency_ms, std::int64_t bytes);
/// The rate at which a link carries `bytes` in that time, without latency.
double transfer_mbps(std::int64_t bytes, double nanoseconds);
/// flops / gflops x slowdown, rounded once. Like transfer_time: InputError beyond 100 years, which
/// is a mistake of units.
Nanoseconds compute_time(const DeviceClass& device, std::int64_t flops, double slowdown = 1);
/// Nanoseconds of one training step by the roofline (Williams, Waterman and Patterson 2009), block
/// by block: the longer of arithmetic (FLOPs of each kind of work / rate of that kind) and memory
/// (moved bytes / bandwidth), plus the fixed cost; not rounded.
double step_nanoseconds(const DeviceClass& device, const TrainingCost& step);
/// Time of all `steps` x slowdown, rounded once: the sum of step_nanoseconds, or the time of their
/// FLOPs if the class has no roofline.
Nanoseconds compute_time(const DeviceClass& device, std::span<const Steps> steps,
                         double slowdown = 1);
/// The cap in bytes (1 MB = 10^6); 0: not capped.
inline std::int64_t memory_bytes(const DeviceClass& device) {
  return std::llround(device.memory_mb * 1e6);
}

/// Copies the classes that clients.fleet names from the shipped catalogue (inputs/devices.ini) into
/// `config`, as defaults.
void bring_catalogue(Config& config);
/// All of the catalogue's classes.
std::vector<DeviceClass> catalogue_classes(const OptionTable& table);

/// "laptop", and the classes that [device.NAME] sections define or change; a new class has the
/// values of "laptop" for fields that it does not set. "laptop" is not a measured machine but an
/// illustrative default for runs that name no fleet.
std::vector<DeviceClass> device_classes(const Config& config);
/// clients.count, clients.per_round, clients.fleet, device.*.…
void declare_device_options(OptionTable& table);

class Fleet {
 public:
  /// clients.fleet: `2*fast, 4*slow` in order of client (a name alone counts once), repeated over
  /// clients.count; empty: all "laptop". InputError if the counts do not divide clients.count, a
  /// class is unknown, or clients.per_round is above clients.count.
  explicit Fleet(const Config& config);
  std::int64_t size() const { return static_cast<std::int64_t>(class_of_.size()); }
  const DeviceClass& device(std::int64_t client) const { return classes_[class_of_.at(client)]; }
  /// The client's modes for a task that starts from `version`, drawn with the key (client,
  /// version / clients.modes_every).
  Modes modes_at(std::int64_t client, std::int64_t version) const;
  /// The client's class in these modes.
  DeviceClass device_at(std::int64_t client, std::int64_t version) const;
  const std::vector<DeviceClass>& classes() const { return classes_; }
  /// Gives the client a class of its own, equal to its former one but with these rates in both
  /// directions. References to classes become invalid.
  void set_link_rates(std::int64_t client, double mbps);

 private:
  std::vector<DeviceClass> classes_;
  std::vector<std::int32_t> class_of_;
  std::int64_t seed_ = 0;
  std::int64_t modes_every_ = 1;
};

}  // namespace espalier
