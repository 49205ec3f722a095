#pragma once
// Operations, times, bytes and memory of a bottom and a top, from the cost model. Bottoms send
// their outputs (features) with the labels of the batch and get the gradient of the features back.

#include <cstdint>
#include <map>
#include <span>

#include "espalier/protocol/split/parts.h"
#include "espalier/protocol/split/plan.h"

namespace espalier::split {

/// A worker's batch that has come to a host.
struct Arrival {
  Nanoseconds time = 0;
  std::int64_t samples = 0;
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
  std::int64_t top_bytes() const { return top(1).message_bytes; }
  std::int64_t feature_bytes(std::int64_t samples) const {
    return samples * bottom(1).output_bytes;
  }
  std::int64_t label_bytes(std::int64_t samples) const;

  /// Samples of the worker's batch number `iteration` of a round, from 0: the last batch of an
  /// epoch may be smaller, unless it is left out.
  std::int64_t batch_at(const WorkerPlan& worker, std::int64_t iteration) const;
  /// Batches of the client in one task of rounds (train.epochs, train.steps) at this batch size.
  std::int64_t batches(std::int64_t client, std::int64_t batch) const;
  /// Operations of the passes of a bottom.
  std::int64_t forward_flops(std::int64_t batch) const { return bottom(batch).forward_flops; }
  std::int64_t backward_flops(std::int64_t batch) const {
    return bottom(batch).step_flops - bottom(batch).forward_flops;
  }
  /// Time of a step of the bottom, and its division in proportion to operations.
  Nanoseconds forward_time(const DeviceClass& device, std::int64_t batch) const;
  Nanoseconds backward_time(const DeviceClass& device, std::int64_t batch) const;
  /// Of the top's steps for batches of these sizes.
  std::int64_t top_flops(std::span<const std::int64_t> sizes) const;
  Nanoseconds top_time(const DeviceClass& device, std::span<const std::int64_t> sizes,
                       double slowdown = 1) const;
  /// When a host of this class has made the top's steps for all the batches. Accumulated gradients
  /// are made in the order of arrival, those of one batch while others are under way.
  Nanoseconds top_done(const DeviceClass& device, std::vector<Arrival> batches,
                       double slowdown = 1) const;

  /// Upper bounds of memory.
  std::int64_t bottom_memory(std::int64_t batch) const;
  std::int64_t top_memory(std::span<const std::int64_t> sizes) const;
  /// InputError if a worker or a host of the plan has too little memory.
  void refuse_little_memory(const RoundPlan& plan) const;

 private:
  using Cache = std::map<std::int64_t, TrainingCost>;  // by batch
  const TrainingCost& cost(Cache& cache, const Submodel& part, std::int64_t batch) const;
  std::int64_t labels_in_memory(std::int64_t samples) const;
  std::vector<Steps> top_steps(std::span<const std::int64_t> sizes) const;

  const Experiment& experiment_;
  const Parts& parts_;
  mutable Cache bottoms_, tops_;
};

/// Planned batch sizes of a cluster's workers.
std::vector<std::int64_t> batch_sizes(const ClusterPlan& cluster);

}  // namespace espalier::split
