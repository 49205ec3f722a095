#pragma once
// Operations, times, bytes and memory of workers and hosts, from the cost model. Bottoms send their
// outputs (features) with the labels of the batch and get the gradient of the features back; or
// workers send the model and get the mean of their cluster back. The rest of the protocol asks here
// for what depends on the kind of exchange.

#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include "espalier/protocol/split/parts.h"
#include "espalier/protocol/split/plan.h"

namespace espalier::split {

/// A worker's batch that has come to a host.
struct Arrival {
  Nanoseconds time = 0;
  std::int64_t samples = 0;
};

/// A job of a worker: a message from the host, work, and a message to the host.
struct WorkerJob {
  std::int64_t bytes_down = 0, bytes_up = 0;
  std::int64_t samples = 0;  ///< of the iteration for which the answer is; 0: of none
  std::int64_t flops = 0;
  Nanoseconds compute = 0;
};

/// The jobs of a round in which all batches are whole.
struct WholeJobs {
  WorkerJob first, between;
  std::optional<WorkerJob> last;  ///< if something comes after the last iteration
};

class Costs {
 public:
  /// Both must outlive it.
  Costs(const Experiment& experiment, const Parts& parts);

  /// One training step of the part; the reference is valid as long as this object.
  const TrainingCost& bottom(std::int64_t batch) const {
    return cost(bottoms_, parts_.bottom, batch);
  }
  const TrainingCost& top(std::int64_t batch) const { return cost(tops_, parts_.top, batch); }

  /// Bytes of messages: weights of the parts, features or their gradient (float32), labels (4 bytes
  /// each).
  std::int64_t bottom_bytes() const { return bottom(1).message_bytes; }
  std::int64_t model_bytes() const;  ///< of the whole model
  std::int64_t feature_bytes(std::int64_t samples) const {
    return samples * bottom(1).output_bytes;
  }
  std::int64_t label_bytes(std::int64_t samples) const;
  /// Of an iteration with these samples, to the worker and from it.
  std::int64_t down_bytes(std::int64_t samples) const;
  std::int64_t up_bytes(std::int64_t samples) const;

  /// Samples of the worker's batch number `iteration` of a round, from 0: the last batch of an
  /// epoch may be smaller, unless it is left out.
  std::int64_t batch_at(const WorkerPlan& worker, std::int64_t iteration) const;
  /// Iterations in which the client makes at least the batches of one task of rounds (train.epochs,
  /// train.steps) at this batch size.
  std::int64_t iterations(std::int64_t client, std::int64_t batch) const;
  std::int64_t local_steps() const { return parts_.local_steps; }

  /// Jobs of a worker in a round. With features a first one brings the bottom, and a last one
  /// returns it; in between the backward pass of an iteration and the forward pass of the next are
  /// one job. With models each iteration is one.
  std::int64_t jobs(std::int64_t iterations) const;
  /// Job `number`, from 0, of a round with this number of iterations.
  WorkerJob job(const DeviceClass& device, const WorkerPlan& worker, std::int64_t iterations,
                std::int64_t number) const;
  WholeJobs whole_jobs(const DeviceClass& device, std::int64_t batch) const;
  /// Time of a worker's step on `samples` samples, of batches that have `batch` if they are whole.
  Nanoseconds step_time(const DeviceClass& device, std::int64_t batch, std::int64_t samples) const;
  /// The division of a bottom's step in proportion to operations.
  Nanoseconds forward_time(const DeviceClass& device, std::int64_t batch) const;
  Nanoseconds backward_time(const DeviceClass& device, std::int64_t batch) const;
  /// Of the host's work in an iteration: the top's steps for batches of these sizes, or the mean of
  /// this number of models.
  std::int64_t top_flops(std::span<const std::int64_t> sizes) const;
  Nanoseconds top_time(const DeviceClass& device, std::span<const std::int64_t> sizes,
                       double slowdown = 1) const;
  /// When a host of this class has done that work for all the batches. Accumulated gradients are
  /// made in the order of arrival, those of one batch while others are under way.
  Nanoseconds top_done(const DeviceClass& device, std::vector<Arrival> batches,
                       double slowdown = 1) const;
  /// Operations of the mean of bottoms, which a client as host takes at the end of a round.
  std::int64_t closing_flops(std::int64_t workers) const;
  /// Bytes of weights that the server adds to the mean of all clusters.
  std::int64_t merged_bytes(const ClusterPlan& cluster) const;

  /// Upper bounds of memory.
  std::int64_t bottom_memory(std::int64_t batch) const;
  std::int64_t top_memory(std::span<const std::int64_t> sizes) const;
  /// InputError if a worker or a host of the plan has too little memory.
  void refuse_little_memory(const RoundPlan& plan) const;

 private:
  using Cache = std::map<std::int64_t, TrainingCost>;  // by batch
  const TrainingCost& cost(Cache& cache, const Submodel& part, std::int64_t batch) const;
  bool has_features() const { return parts_.exchange == Exchange::features; }
  WorkerJob split_job(const DeviceClass& device, std::int64_t before, std::int64_t next) const;
  WorkerJob model_job(const DeviceClass& device, std::int64_t batch,
                      std::span<const std::int64_t> sizes) const;
  std::vector<Steps> step_costs(std::int64_t batch, std::int64_t samples) const;
  std::int64_t labels_in_memory(std::int64_t samples) const;
  std::vector<Steps> top_steps(std::span<const std::int64_t> sizes) const;

  const Experiment& experiment_;
  const Parts& parts_;
  TrainingCost penalty_;  // of a step of the optimiser
  mutable Cache bottoms_, tops_;
};

/// Operations of adding `bytes` of weights to a mean.
std::int64_t merge_flops(std::int64_t bytes);

/// The number of workers in all clusters.
std::int64_t workers_of(const std::vector<ClusterPlan>& clusters);
/// Planned batch sizes of a cluster's workers.
std::vector<std::int64_t> batch_sizes(const ClusterPlan& cluster);

}  // namespace espalier::split
