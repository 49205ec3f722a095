#include "espalier/engine/real_time.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "espalier/device/emulated_time.h"

namespace espalier {

RealTime::RealTime(const MpiEnvironment& mpi, double scale) : scale_(scale) {
  const MpiEnvironment::ClockOffset own = mpi.clock_offset();
  std::int64_t zero = std::chrono::duration_cast<std::chrono::nanoseconds>(
                          std::chrono::steady_clock::now().time_since_epoch())
                          .count();
  ESPALIER_MPI(MPI_Bcast(&zero, 1, MPI_INT64_T, 0, mpi.communicator()));
  zero_ = std::chrono::nanoseconds{zero} - own.offset;
}

Nanoseconds RealTime::at(std::chrono::steady_clock::time_point moment) const {
  const auto real =
      std::chrono::duration_cast<std::chrono::nanoseconds>(moment.time_since_epoch()) - zero_;
  return rounded(static_cast<double>(real.count()) / scale_);
}

std::chrono::nanoseconds RealTime::until(Nanoseconds time) const {
  // At most an hour: a longer wait asks again.
  constexpr double kHour = 3600e9;
  const double real = (static_cast<double>(time) - static_cast<double>(now())) * scale_;
  return std::chrono::nanoseconds{std::llround(std::clamp(real, -kHour, kHour))};
}

}  // namespace espalier
