#pragma once
// Real time in a paced run. All ranks count it from one moment, so that a task carries the time at
// which its client is to compute, and what a message or a busy rank takes on the way is hidden in
// the time that the emulated device and its link take anyway.

#include <chrono>

#include "espalier/comm/environment.h"
#include "espalier/device/device.h"

namespace espalier {

class RealTime {
 public:
  /// From now on, on rank 0's clock. `scale`: real seconds per emulated second. Collective.
  RealTime(const MpiEnvironment& mpi, double scale);

  /// Emulated time since then.
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
