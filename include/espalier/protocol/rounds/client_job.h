#pragma once
// A client's task as a job of the engine: sending, work on a rank, and reading of the answer.

#include "espalier/engine/job.h"
#include "espalier/protocol/rounds/client_task.h"
#include "espalier/protocol/rounds/rules.h"

namespace espalier::rounds {

/// Adds client tasks, with the rules that clients need. The objects to which `context` refers must
/// outlive the kinds.
void add_client_jobs(JobKinds& kinds, const RuleContext& context, const ClientRules& rules);

Job client_job(const ClientTask& task, SharedBytes payload);

/// The answer to a task.
struct Arrival {
  ClientResult result;
  SharedBytes values;  ///< trained, dense; empty if the task failed
  int rank = 0;
};
Arrival arrival_of(const Answer& answer);

}  // namespace espalier::rounds
