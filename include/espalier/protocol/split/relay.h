#pragma once
// The messages of a round: what a cluster's workers send goes to its host (features, or models),
// the host's answer back (gradients, or their mean). A message is made as soon as its contents are
// there. With a computed clock this is before the
// emulated time at which it leaves (Clock::prepare), so clusters do not wait for each other on the
// ranks. The round itself decides the times. Who computes what does not depend on them.

#include <cstdint>
#include <map>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/engine/clock.h"
#include "espalier/protocol/split/bottom.h"
#include "espalier/protocol/split/costs.h"
#include "espalier/protocol/split/top.h"

namespace espalier::split {

/// States of optimisers from earlier rounds, if they are kept.
struct KeptStates {
  std::map<std::int64_t, Bytes> bottoms;  ///< by client
  std::map<std::int64_t, Bytes> tops;     ///< by cluster
};

/// What a round begins with.
struct RoundStart {
  std::int64_t version = 0;
  Nanoseconds now = 0;
  SharedBytes bottom{}, top{};           ///< weights of the parts, dense
  std::vector<std::int64_t> nth_task{};  ///< by client: rounds in which it took part
  const KeptStates* states = nullptr;    ///< must outlive the round; null: none
};

/// A host, by the index of its cluster, or a worker, by its index among the workers of all
/// clusters.
struct Party {
  bool is_top = false;
  std::size_t index = 0;
  bool operator==(const Party&) const = default;
};

/// The turns of a party are the numbers of its jobs. A host has `begin` in turn 0, a step in each
/// of the turns 1 to n, and `finish` in turn n + 1; n: iterations of the cluster. A worker has as
/// many as Costs::jobs() says, from 0.
struct Turn {
  Party party{};
  std::int64_t turn = 0;
};

/// Numbers of the jobs of a round.
class JobNumbers {
 public:
  JobNumbers(std::size_t clusters, std::size_t workers)
      : clusters_(static_cast<std::int64_t>(clusters)),
        parties_(static_cast<std::int64_t>(clusters + workers)) {}
  std::int64_t number(const Turn& turn) const {
    const auto index = static_cast<std::int64_t>(turn.party.index);
    return turn.turn * parties_ + (turn.party.is_top ? index : clusters_ + index);
  }
  Turn turn(std::int64_t number) const {
    const std::int64_t party = number % parties_;
    const bool is_top = party < clusters_;
    return {{is_top, static_cast<std::size_t>(is_top ? party : party - clusters_)},
            number / parties_};
  }

 private:
  std::int64_t clusters_, parties_;
};

class Relay {
 public:
  /// All references must outlive it.
  Relay(const Experiment& experiment, const Parts& parts, const Costs& costs, Clock& clock,
        const std::vector<ClusterPlan>& clusters, const RoundStart& start);
  /// Prepares the first jobs.
  void begin();
  /// Takes what others need out of the answer, and prepares the jobs that need it.
  void take(Answer& answer);

  const JobNumbers& numbers() const { return numbers_; }

 private:
  struct Worker {
    WorkerPlan plan;
    std::size_t cluster = 0;
    BottomResult result{};  // of the last answer
    SharedBytes payload{};  // of the last answer: features or weights
  };
  struct Cluster {
    const ClusterPlan* plan = nullptr;
    std::vector<std::size_t> workers{};
    std::int64_t iteration = 0;  // that the workers are in, from 0
    std::int64_t missing = 0;    // workers that have not answered
  };
  void prepare(const Turn& turn, JobKind kind, Endpoint endpoint, Bytes head, SharedBytes payload);
  void prepare_top(std::size_t index, TopTask task, SharedBytes payload);
  void prepare_bottom(std::size_t index, SharedBytes payload);
  void begin_top(std::size_t index);
  void step_top(std::size_t index);
  void add_batches(std::size_t index, TopTask& task) const;
  void finish_top(std::size_t index);
  void pass_on(std::size_t index, const SharedBytes& answer);
  void take_of_worker(std::size_t index, Answer& answer);
  bool has_features() const { return parts_.exchange == Exchange::features; }

  const Experiment& experiment_;
  const Parts& parts_;
  const Costs& costs_;
  Clock& clock_;
  const RoundStart& start_;
  JobNumbers numbers_;
  std::vector<Cluster> clusters_;
  std::vector<Worker> workers_;
};

}  // namespace espalier::split
