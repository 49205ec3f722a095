#pragma once
// A client's task as a job of the engine: how it is sent, done on a rank, and read back.

#include "espalier/engine/job.h"
#include "espalier/train/client.h"

namespace espalier::rounds {

/// Client tasks, with the rules that clients need.
void add_client_jobs(JobKinds& kinds, const Experiment& experiment, ClientRules rules,
                     const Config& config);

Job client_job(const ClientTask& task, SharedBytes payload);

/// The answer to a task.
struct Arrival {
  ClientResult result;
  SharedBytes values;  ///< trained, dense; empty where the task failed
  int rank = 0;
};
Arrival arrival_of(const Answer& answer);

}  // namespace espalier::rounds
