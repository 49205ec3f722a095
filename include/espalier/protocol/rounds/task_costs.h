#pragma once
// Emulated costs of tasks: operations, bytes and times on the client's device and links, and bounds
// of its memory. A task whose bound is within the memory of its client cannot run out of it; any
// other may, and then ends with the step in which it does, so its times follow from its result.

#include <cstdint>
#include <map>
#include <tuple>

#include "espalier/engine/clock.h"
#include "espalier/model/cost.h"
#include "espalier/protocol/rounds/sent_task.h"

namespace espalier::rounds {

/// Bytes of a task's payload, either way.
std::int64_t message_bytes(const Experiment& experiment, const TaskRules& rules,
                           const Submodel& submodel);

/// Upper bounds of a client's memory during a task.
struct Peaks {
  std::int64_t search = 0;  ///< 0: no search
  TrainingCost training;
  std::int64_t largest() const { return std::max(search, training.peak_bytes); }
};
Peaks assignment_peaks(const Experiment& experiment, const TaskRules& rules,
                       const Assignment& assigned, std::int64_t client);

class TaskCosts {
 public:
  /// The experiment must outlive it.
  TaskCosts(const Experiment& experiment, TaskRules rules)
      : experiment_(experiment), rules_(std::move(rules)) {}

  /// Whether the client's memory surely holds such a task.
  bool fits(const Assignment& assigned, std::int64_t client);
  /// The flight of a task that is sent at `now`. Call it before the client's state is added to the
  /// task, because the state is not charged to a link. With a search the times are lower bounds.
  Flight flight_of(const SentTask& sent, Nanoseconds now);
  /// The same on a given device.
  Flight flight_on(const DeviceClass& device, const SentTask& sent, Nanoseconds now);
  /// Replaces what the flight of a task leaves open by the true values, given its result.
  void settle(const SentTask& sent, const ClientResult& result, Flight& flight);
  /// Time of an update: download, work and upload of the client's task with this submodel, on its
  /// device without modes and faults.
  Nanoseconds update_time(const Assignment& assigned, std::int64_t client);
  /// The flight of the client's first task, with the frozen values that it has yet to receive, on
  /// its device without modes and faults.
  Flight first_flight(const Assignment& assigned, std::int64_t client);

 private:
  enum class Phase { search, training, forward, penalty };
  /// The batches of a task.
  struct Batches {
    Workload search, training;
  };
  Batches batches_of(const SentTask& sent) const;
  void charge(const DeviceClass& device, const SentTask& sent, const Submodel& trained,
              const Batches& batches, Flight& flight);
  Flight flight_alone(const Assignment& assigned, std::int64_t client, std::int64_t frozen_values);
  const TrainingCost& cost_of(Phase phase, const Submodel& submodel, std::int64_t batch);

  const Experiment& experiment_;
  TaskRules rules_;
  std::map<std::tuple<Phase, std::uint64_t, std::int64_t>, TrainingCost> costs_;  // by batch
  // Bounds of memory, by submodel, fraction of a search and batch.
  std::map<std::tuple<std::uint64_t, double, std::int64_t>, std::int64_t> peaks_;
};

/// InputError if a first task with the whole model would use a link or processor of a device or of
/// the server for more than 100 years. Such a rate has a wrong unit; without this check the run
/// would fail only when tasks are sent.
void refuse_endless_tasks(const Experiment& experiment, const LocalObjective& objective,
                          const ClockSettings& clock);

}  // namespace espalier::rounds
