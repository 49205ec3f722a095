#pragma once
// Real time in a paced run. All ranks count it from one moment, so a task can carry the time at
// which its client computes. The real delays of messages and busy ranks then pass within the time
// of the emulated device and its link.

#include <chrono>

#include "espalier/comm/environment.h"
#include "espalier/device/device.h"

namespace espalier {

class RealTime {
 public:
  /// Counts from now, on rank 0's clock. `scale`: real seconds per emulated second. Collective.
  RealTime(const MpiEnvironment& mpi, double scale);

  /// Emulated time since the construction.
  Nanoseconds now() const { return at(std::chrono::steady_clock::now()); }
  Nanoseconds at(std::chrono::steady_clock::time_point moment) const;
  /// Real time from now to an emulated time; negative once it has passed.
  std::chrono::nanoseconds until(Nanoseconds time) const;
  double scale() const { return scale_; }

 private:
  double scale_;
  std::chrono::nanoseconds zero_{0};  // on this rank's steady clock
};

}  // namespace espalier
