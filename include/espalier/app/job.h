#pragma once
// How a command on several ranks fails. What goes wrong on a rank becomes a status and a sentence;
// while all ranks still act alike they agree on it and rank 0 tells it, later the rank that failed
// tells it and ends the job, because others may be waiting for it.

#include <functional>
#include <string>

#include "espalier/comm/environment.h"

namespace espalier {

struct Failure {
  int status = 0;  ///< exit status; 0: nothing failed
  std::string message;
};

/// Runs `work`, unless something failed before, and keeps what it throws. `where` stands before
/// messages of exceptions that are not our own.
void attempt(Failure& failure, const std::function<void()>& work, const std::string& where = "");
/// The status that all ranks return: 0 if none failed, else the failure that rank 0 tells.
/// Collective.
int agreed(const MpiEnvironment& mpi, const Failure& failure);
/// Rank 0's text, on all ranks. Collective.
std::string broadcast_text(const MpiEnvironment& mpi, std::string text);
/// Tells this rank's failure, cleans up and ends the job; alone, returns the status.
int fail_job(const MpiEnvironment& mpi, const Failure& failure,
             const std::function<void()>& clean_up = {});

}  // namespace espalier
