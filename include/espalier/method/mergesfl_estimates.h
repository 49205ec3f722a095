#pragma once
// What MergeSFL's server believes of the workers' speed: smoothed times of a sample, (5) and (6).

#include <cstdint>
#include <vector>

#include "espalier/base/archive.h"

namespace espalier::split {

/// Seconds for one sample.
struct SampleTime {
  double compute_s = 0, transfer_s = 0;
};

class SpeedEstimates {
 public:
  /// `first`: the first observation of each worker. `kept`: share of the old estimate in the new.
  SpeedEstimates(std::vector<SampleTime> first, double kept);
  void observe(std::int64_t worker, const SampleTime& seen);
  /// Time of a sample in compute and transfer, for each worker.
  std::vector<double> sample_s() const;
  void archive(Archive& archive);

 private:
  std::vector<double> compute_s_, transfer_s_;
  double kept_;
};

}  // namespace espalier::split
