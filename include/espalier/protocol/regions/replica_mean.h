#pragma once
// The mean of the regions' replicas at the ends of periods, for evaluations.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/train/experiment.h"

namespace espalier::regions {

class ReplicaMean {
 public:
  /// `experiment` must outlive it. A mean is taken at each period whose number `every` divides, and
  /// at the last one.
  ReplicaMean(const Experiment& experiment, bool is_on, std::int64_t every)
      : experiment_(experiment), every_(is_on ? every : 0) {}
  bool is_wanted(std::int64_t period) const {
    return every_ > 0 && (period % every_ == 0 || period == experiment_.rounds);
  }
  /// A region's replica at the end of the period, dense.
  void add(std::int64_t period, std::span<const float> replica);
  /// The period's mean, in the layout and with the frozen values of `shared`, and forgets it; none
  /// if no region has added a replica.
  std::optional<Parameters> take(std::int64_t period, const Parameters& shared);
  void archive(Archive& archive);

 private:
  struct Sum {
    std::int64_t regions = 0;
    std::vector<double> values;
  };
  const Experiment& experiment_;
  std::int64_t every_;
  std::map<std::int64_t, Sum> sums_;  // by period
};

}  // namespace espalier::regions
