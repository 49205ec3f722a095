#pragma once
// Faults on purpose, to see how a method and the server bear them: clients that crash, answer late,
// answer twice, answer with values that are not finite, or vanish for a while. What happens to a
// task is drawn when it is sent, keyed by client and task, so it is the same on any ranks.

#include <cstdint>
#include <set>

#include "espalier/config/config.h"

namespace espalier::rounds {

/// What is to happen to one task.
struct InjectedFault {
  bool crashes = false;     ///< does not answer; known at its scheduled end
  bool vanishes = false;    ///< does not answer, and is away for a while
  bool twice = false;       ///< answers twice
  bool not_finite = false;  ///< answers with a value that is not a number
  double slowdown = 1;      ///< its compute takes so many times as long
};

/// faults.clients, faults.crash, faults.late, faults.late_factor, faults.twice, faults.not_finite,
/// faults.vanish, faults.vanish_tasks.
void declare_fault_options(OptionTable& table);

class Faults {
 public:
  explicit Faults(const Config& config);
  InjectedFault fault(std::int64_t client, std::int64_t nth_task) const;
  /// How long a client that vanished stays away, in lengths of the task that it left.
  double vanish_tasks() const { return vanish_tasks_; }

 private:
  std::int64_t seed_;
  std::set<std::int64_t> clients_;  // empty: all
  double crash_, late_, late_factor_, twice_, not_finite_, vanish_, vanish_tasks_;
  bool any_ = false;
};

}  // namespace espalier::rounds
