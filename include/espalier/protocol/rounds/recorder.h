#pragma once
// The records of each window: a row of /rounds, a row of /tasks for every task that ended, and a
// warning when a device class has a failure of a new kind.

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "espalier/engine/run.h"
#include "espalier/protocol/rounds/coverage.h"
#include "espalier/protocol/rounds/sent_task.h"

namespace espalier::rounds {

/// A window that has closed.
struct ClosedWindow {
  std::int64_t version = 0;  ///< made by its merge
  Nanoseconds opened = 0, closed = 0;
  std::span<const Delivered> delivered;  ///< in order of events
  std::span<const Update> updates;       ///< the merged ones of these
  std::vector<Flight> outstanding;       ///< of tasks that were sent before it closed
};

class RoundRecorder {
 public:
  /// All must outlive it. `with_agreement`: record.agreement
  RoundRecorder(const Experiment& experiment, const ServerRules& rules, bool with_agreement,
                Run& run)
      : experiment_(experiment), rules_(rules), with_agreement_(with_agreement), run_(run) {}

  /// Appends the rows and reports the round. `model`: the global model, for its buffer layout.
  /// NotFiniteError if the training loss is not finite.
  void record(const ClosedWindow& window, const Parameters& model);
  /// Writes the rows of tasks that failed, if the run ends without closing their window.
  void record_failures(std::span<const Delivered> delivered, std::int64_t version);
  /// A task that the end of the run cuts off.
  void record_unfinished(const SentTask& sent, const Flight& flight, std::int64_t version);
  /// Warns of the first failure of each kind on each device class. /tasks has all failures.
  void warn_of_failure(const Delivered& delivered);
  /// "up_mb=1.234 down_mb=1.234" of the whole run.
  std::string traffic() const;
  void archive(Archive& archive);

 private:
  const Experiment& experiment_;
  const ServerRules& rules_;
  bool with_agreement_ = false;
  Run& run_;
  EverTrained ever_trained_;
  std::set<std::pair<std::string, Outcome>> warned_;  // failures, by device class
  std::int64_t bytes_down_ = 0, bytes_up_ = 0;
};

}  // namespace espalier::rounds
