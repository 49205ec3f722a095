#pragma once
// A worker on its rank, which trains its part of the model during a round. If that is a bottom, the
// first job brings the weights and makes the first forward pass; each further one brings the
// gradient of the last features, steps, and makes the next forward pass; the last one returns the
// weights. (models.h: if it is the whole model.) Nothing remains after the round, so a repeated
// round begins with new weights.

#include <cstdint>
#include <memory>
#include <vector>

#include "espalier/device/memory.h"
#include "espalier/engine/job.h"
#include "espalier/engine/resident.h"
#include "espalier/protocol/split/parts.h"
#include "espalier/train/trainer.h"

namespace espalier::split {

inline constexpr JobKind kBottomJob = job_kind("split.bottom");
inline constexpr ResidentKind kBottom = job_kind("split.worker");

struct BottomTask {
  std::int64_t begins = 0;   ///< 1: the first of the round, whose payload is the weights
  std::int64_t goes_on = 0;  ///< 0: the last of the round, whose answer is the weights
  // Of the round, with begins:
  std::int64_t version = 0, nth_task = 0, batch = 0;
  Bytes optimizer{};  ///< state of the optimiser, if it is kept

  Bytes encode() const;
  static BottomTask decode(const Bytes& bytes);
};

/// The payload of the answer is the features, or the weights.
struct BottomResult {
  std::vector<std::int64_t> shape;   ///< of the features
  std::vector<std::int64_t> labels;  ///< of the batch, flat
  double loss_sum = 0;               ///< of the samples of the iteration, if the worker knows it
  std::int64_t peak_bytes = 0;       ///< of the round so far
  Bytes optimizer{};                 ///< with the last weights, if it is kept

  Bytes encode() const;
  static BottomResult decode(const Bytes& bytes);
};

/// What all workers have: weights and optimiser for the time of a round.
class WorkerPart : public Resident {
 public:
  /// `experiment` and `parts` must outlive it.
  WorkerPart(const Experiment& experiment, const Parts& parts, std::int64_t client)
      : experiment_(experiment), parts_(parts), client_(client) {}
  void begin(const BottomTask& task, const Bytes& weights);
  /// Rounds are repeated from their beginning.
  void archive(Archive&) override {}

 protected:
  /// The weights with this result; the last ones of a round with the optimiser, which ends it.
  Stepper::Output weights(BottomResult result, bool is_last);

  const Experiment& experiment_;
  const Parts& parts_;
  std::int64_t client_;
  std::shared_ptr<MemoryAccount> account_;
  std::unique_ptr<Trainer> trainer_;
};

class Bottom final : public WorkerPart {
 public:
  using WorkerPart::WorkerPart;
  void begin(const BottomTask& task, const Bytes& weights) {
    features_.reset();
    WorkerPart::begin(task, weights);
  }
  void step(const Bytes& gradient);
  Stepper::Output forward();
  Stepper::Output finish() { return weights({}, true); }

 private:
  at::Tensor features_;
};

/// Adds the jobs and the residents of workers. All arguments must outlive them.
void add_bottom_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                     std::shared_ptr<const Parts> parts);

/// Whether optimisers keep their state from round to round, and have any.
bool keeps_optimizer(const TrainSettings& train);
/// The state of a trainer's optimiser, and back; empty if it is not kept.
Bytes optimizer_state(const Experiment& experiment, Trainer& trainer);
void restore_optimizer(const Experiment& experiment, Trainer& trainer, const Bytes& state);

}  // namespace espalier::split
