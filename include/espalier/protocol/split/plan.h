#pragma once
// The plan of a round: who trains, with which batch sizes, in which clusters, for how long. The
// control module of a method makes it from what it has observed in earlier rounds; the protocol
// carries it out. Plans are values. Each client has at most one part in a plan; batches, iterations
// and weights are positive.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/comm/mailbox.h"
#include "espalier/config/config.h"
#include "espalier/device/device.h"
#include "espalier/train/experiment.h"

namespace espalier::split {

class Costs;

struct WorkerPlan {
  std::int64_t client = 0;
  std::int64_t batch = 0;  ///< samples of a batch
  double weight = 1;       ///< in the mean of its cluster, relative to the others
};

/// Workers that share a host and go on in step.
struct ClusterPlan {
  Endpoint host = kServer;  ///< the server, or a client that does not train itself
  std::int64_t iterations = 0;
  std::vector<WorkerPlan> workers{};  ///< by ascending client
  double weight = 1;                  ///< of its model in the mean, relative to the other clusters
};

struct RoundPlan {
  std::vector<ClusterPlan> clusters;
};

/// What the control module learns of a worker's round.
struct Observation {
  std::int64_t client = 0, cluster = 0, samples = 0;
  /// Times of the iterations alone: without the transfers of bottoms before and after them.
  Nanoseconds compute = 0, transfer = 0;
  double train_loss = 0;  ///< mean over the samples
};

class Control {
 public:
  virtual ~Control() = default;
  /// The plan of the round that begins with `version` of the model. It depends on `version` and on
  /// what was observed before, so that a round can be repeated.
  virtual RoundPlan plan(std::int64_t version) const = 0;
  /// Called at the end of each round, by ascending client.
  virtual void observe(const std::vector<Observation>&) {}
  virtual void archive(Archive&) {}
};

/// What a control module is made from; all of it outlives the module.
struct ControlContext {
  const Config& config;
  const Experiment& experiment;
  const Costs& costs;
};
/// InputError if the settings contradict each other.
using ControlFactory = std::function<std::unique_ptr<Control>(const ControlContext&)>;

}  // namespace espalier::split
