#pragma once
// A task on the server: from its sending to its answer, and from there to the merge.

#include <cstdint>
#include <memory>

#include "espalier/engine/clock.h"
#include "espalier/protocol/rounds/client_job.h"
#include "espalier/protocol/rounds/faults.h"
#include "espalier/protocol/rounds/rules.h"
#include "espalier/record/outcome.h"

namespace espalier::rounds {

/// A task that was sent; the clock has its flight.
struct SentTask {
  ClientTask task;
  std::shared_ptr<const BufferLayout> buffer_layout;  ///< dense; of the payload
  SharedBytes payload;
  double width = 1;  ///< of its assignment
  InjectedFault fault;
};
/// Sets the parts of a flight that follow from its task alone: number, endpoint, whether there will
/// be an answer, and what it costs the server to take that in.
void set_identity(Flight& flight, const SentTask& sent);

/// A task of the present window whose answer was delivered, or whose failure was noticed.
struct Delivered {
  SentTask sent;
  Flight flight;
  Arrival arrival;  ///< empty if the client did not answer
  Outcome outcome = Outcome::merged;
  std::int64_t staleness = 0;
  double weight = 0;         ///< of its update in the merge
  bool is_searched = false;  ///< the submodel is the one that the client found
  bool is_waiting = false;   ///< its client gets no new work before the merge
};

}  // namespace espalier::rounds
