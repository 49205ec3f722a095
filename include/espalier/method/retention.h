#pragma once
// The size of each client's submodel, learned from the times of its updates (AdaptCL;
// docs/methods/adaptcl.md, "How the sizes are learned"). Only numbers: no clock, no model.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "espalier/base/archive.h"

namespace espalier::rounds {

/// A client's submodel at one time: the mean time of its updates, and its retention, the fraction
/// of the model's parameters that it has.
struct RetentionPoint {
  double time = 0;  ///< seconds
  double retention = 1;
};

/// The value at `time` of the polynomial through the last `count` points (Newton's form), retention
/// as a function of time. A point with the time (to 1e-6) or the retention of a later one is not
/// used. No value if fewer than two points remain.
std::optional<double> interpolate(std::span<const RetentionPoint> points, std::int64_t count,
                                  double time);

struct RetentionSettings {
  bool is_anchored = true;  ///< target: the fastest client that was never pruned; else of all
  std::int64_t points = 2;
  double tolerance = 0.1;  ///< a client up to this fraction above the target is left alone
  double aim = 0.5;        ///< the time aimed at: target x (1 + aim x tolerance)
  double largest_rate = 0.5;
  double least_rate = 0.02;
  double floor = 0.1;    ///< smallest retention
  bool regrows = false;  ///< enlarge after three intervals below target / 1.5
};

class RetentionLearner {
 public:
  RetentionLearner(RetentionSettings settings, std::int64_t clients);
  /// After a pruning interval: `times`, the mean time of each client's updates, none if it had
  /// none; `retentions`, the present ones. Returns the retentions wanted next; a client that is
  /// left alone keeps its own.
  std::vector<double> learn(std::span<const std::optional<double>> times,
                            std::span<const double> retentions);
  /// The time that updates should take: the shortest of the clients' last known times, seconds;
  /// none before a client that counts was heard of. Anchored, only clients count that were never
  /// pruned, and of those only the ones with the whole model, if there are any: a small memory must
  /// not make the others small.
  std::optional<double> target(std::span<const double> retentions) const;
  void archive(Archive& archive);

 private:
  struct Client {
    std::vector<RetentionPoint> points;  // the last ones that an interpolation can use
    std::int64_t is_pruned = 0;          // by this learner, ever
    std::int64_t fast_intervals = 0;     // consecutive, below target / 1.5
  };
  double smaller(const Client& client, double target) const;
  double larger(const Client& client, double target) const;

  RetentionSettings settings_;
  std::vector<Client> clients_;
};

}  // namespace espalier::rounds
