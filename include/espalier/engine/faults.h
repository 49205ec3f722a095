#pragma once
// Injected faults, to test a method and the server: clients that crash, answer late, answer twice,
// answer with values that are not finite, or vanish for a while. The faults of a task (or of a
// period of endless training) are keyed by client and task, so they are the same on any number of
// ranks.

#include <cstdint>
#include <set>

#include "espalier/config/config.h"

namespace espalier {

/// The faults of one task.
struct InjectedFault {
  bool crashes = false;     ///< no answer; the server notices at the scheduled end
  bool vanishes = false;    ///< no answer, and the client is absent for a while
  bool twice = false;       ///< two answers
  bool not_finite = false;  ///< an answer with a value that is not a number
  double slowdown = 1;      ///< factor of the compute time
};

/// faults.clients, faults.crash, faults.late, faults.late_factor, faults.twice, faults.not_finite,
/// faults.vanish, faults.vanish_tasks.
void declare_fault_options(OptionTable& table);

class Faults {
 public:
  explicit Faults(const Config& config);
  /// Whether the client may have faults (faults.clients).
  bool concern(std::int64_t client) const { return clients_.empty() || clients_.contains(client); }
  InjectedFault fault(std::int64_t client, std::int64_t nth_task) const;
  /// Absence of a client that vanished, in lengths of the task that it left.
  double vanish_tasks() const { return vanish_tasks_; }

 private:
  std::int64_t seed_;
  std::set<std::int64_t> clients_;  // empty: all
  double crash_, late_, late_factor_, twice_, not_finite_, vanish_, vanish_tasks_;
  bool any_ = false;
};

}  // namespace espalier
