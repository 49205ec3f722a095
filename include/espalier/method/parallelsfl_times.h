#pragma once
// What ParallelSFL's server believes of the workers' times: those of their device classes, times a
// factor for compute and one for links that follow the observed rounds.

#include <cstdint>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/method/parallelsfl_clusters.h"
#include "espalier/method/parallelsfl_frequencies.h"
#include "espalier/protocol/split/costs.h"

namespace espalier::split {

/// How many times as long as by its device class a client's work takes.
class Slowness {
 public:
  /// `kept`: share of the old estimate in the new one.
  Slowness(std::int64_t clients, double kept);
  double compute(std::int64_t client) const { return compute_[at(client)]; }
  double transfer(std::int64_t client) const { return transfer_[at(client)]; }
  /// The first observation of a client replaces the 1 of its class.
  void observe(std::int64_t client, double compute, double transfer);
  /// Whether some factor of the two is more than 1 + `change` times the other's.
  bool differs(const Slowness& other, double change) const;
  void archive(Archive& archive);

 private:
  static std::size_t at(std::int64_t client) { return static_cast<std::size_t>(client); }

  std::vector<double> compute_, transfer_;
  std::vector<std::int64_t> observed_;  // rounds
  double kept_;
};

class ParallelTimes {
 public:
  /// Both must outlive it.
  ParallelTimes(const Experiment& experiment, const Costs& costs)
      : experiment_(experiment), costs_(costs) {}

  /// mu_b + beta of the worker with that top.
  double side_s(const Slowness& slowness, std::int64_t worker, std::int64_t top) const;
  /// mu_p.
  double top_s(const Slowness& slowness, std::int64_t top) const;
  /// t_{c,o} and beta_c at the planned batches. The latter has the model's way between server and
  /// top, and what the bottoms' ways between the top and its workers add.
  ClusterPace pace(const Slowness& slowness, const ClusterPlan& cluster) const;
  /// Adds what a round of that cluster has shown of the worker.
  void learn(Slowness& slowness, const ClusterPlan& cluster, const WorkerPlan& worker,
             const Observation& seen) const;

 private:
  /// Times by the device classes, in nanoseconds.
  double link(std::int64_t from, std::int64_t to, std::int64_t bytes) const;
  double step(std::int64_t worker, std::int64_t samples) const;
  double messages(std::int64_t worker, std::int64_t top, std::int64_t samples) const;

  const Experiment& experiment_;
  const Costs& costs_;
};

}  // namespace espalier::split
