#pragma once
// The server's own resources: two links and a processor. Each serves one piece of work at a time,
// in order of arrival, so updates that arrive together wait for each other. Rate 0 means no delay.

#include <cstdint>

#include "espalier/base/archive.h"
#include "espalier/config/config.h"
#include "espalier/device/device.h"

namespace espalier {

/// A first-in-first-out resource. Work must come in order of time.
class Fifo {
 public:
  /// Work of `amount` takes amount x unit / rate nanoseconds, rounded once; rate 0: no time.
  /// `option` names the rate in messages and must outlive the resource.
  Fifo(const char* option, double rate, double unit) : option_(option), rate_(rate), unit_(unit) {}
  /// Serves work of `amount` that arrives at `time`; returns its end. InputError past 100 years.
  Nanoseconds take(Nanoseconds time, std::int64_t amount);
  void archive(Archive& archive, const char* name) { archive.value(name, free_); }

 private:
  const char* option_;
  double rate_, unit_;
  Nanoseconds free_ = 0;
};

struct ServerResources {
  /// Without delays.
  ServerResources();
  explicit ServerResources(const Config& config);
  void archive(Archive& archive);
  Fifo down;       ///< of bytes
  Fifo up;         ///< of bytes
  Fifo processor;  ///< of floating-point operations
};

/// The server's operations for one value of an update: a multiplication and an addition, into the
/// weighted sum.
inline constexpr std::int64_t kFlopsPerMergedValue = 2;

/// server.gflops, server.down_mbps, server.up_mbps.
void declare_resource_options(OptionTable& table);

}  // namespace espalier
