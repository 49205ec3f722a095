#pragma once
// A task on the server: between sending and answer, and between answer and merge.

#include <cstdint>
#include <memory>
#include <optional>

#include "espalier/engine/clock.h"
#include "espalier/engine/faults.h"
#include "espalier/protocol/rounds/client_job.h"
#include "espalier/protocol/rounds/rules.h"
#include "espalier/record/outcome.h"

namespace espalier::rounds {

/// A task that was sent; the clock has its flight.
struct SentTask {
  ClientTask task;
  std::shared_ptr<const BufferLayout> buffer_layout;  ///< shared; of the payload
  SharedBytes payload;
  // Of its assignment:
  double width = 1;
  std::int64_t name_bytes = -1;
  std::optional<Traffic> traffic{};
  InjectedFault fault;
  std::int64_t frozen_values = 0;  ///< that the client receives with it
};
/// Sets the members of a flight that follow from its task alone: number, endpoint, whether it is
/// answered, and the server's operations for the answer.
void set_identity(Flight& flight, const SentTask& sent);

/// A task of the present window that has an answer or whose failure was noticed.
struct Delivered {
  SentTask sent;
  Flight flight;
  Arrival arrival;  ///< empty if the client did not answer
  Outcome outcome = Outcome::merged;
  std::int64_t staleness = 0;
  double weight = 0;         ///< of its update in the merge
  bool is_searched = false;  ///< the client's search found the submodel
  bool is_waiting = false;   ///< its client gets no new task before the merge
};

}  // namespace espalier::rounds
