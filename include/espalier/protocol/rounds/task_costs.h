#pragma once
// Emulated costs of tasks: operations, bytes and times on the client's device and links.

#include <cstdint>
#include <map>
#include <tuple>

#include "espalier/engine/clock.h"
#include "espalier/model/cost.h"
#include "espalier/protocol/rounds/sent_task.h"

namespace espalier::rounds {

class TaskCosts {
 public:
  /// Both must outlive it.
  TaskCosts(const Experiment& experiment, const ServerRules& rules)
      : experiment_(experiment), rules_(rules) {}

  /// The flight of a task that is sent at `now`; its client's state is not in the task yet, because
  /// it is charged to no link. If the client searches, the times are the least that it may take.
  Flight flight_of(const SentTask& sent, Nanoseconds now);
  /// Sets what the task takes after its download, if its client trains `trained`.
  void charge(const SentTask& sent, const Submodel& trained, Flight& flight);

 private:
  enum class Phase { search, training };
  const TrainingCost& cost_of(Phase phase, const Submodel& submodel, std::int64_t batch);

  const Experiment& experiment_;
  const ServerRules& rules_;
  std::map<std::tuple<Phase, std::uint64_t, std::int64_t>, TrainingCost> costs_;  // by batch
};

/// InputError if a first task with the whole model would take a device's link or processor, or the
/// server's, more than 100 years: a slip of units, which otherwise shows when tasks are sent.
void refuse_endless_tasks(const Experiment& experiment, const LocalObjective& objective,
                          const ClockSettings& clock);

}  // namespace espalier::rounds
