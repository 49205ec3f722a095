#pragma once
// How a command on several ranks fails. An exception on any rank becomes a status and a sentence.
// While all ranks still act alike they agree on it and rank 0 prints it; later the rank that failed
// prints it and ends the job, because others may be waiting for it.

#include <functional>
#include <string>

#include "espalier/comm/environment.h"

namespace espalier {

struct Failure {
  int status = 0;  ///< exit status; 0: nothing failed
  std::string message;
};

/// Runs `work` and returns what it threw. `where` is put before messages of exceptions that are not
/// our own.
Failure attempt(const std::function<void()>& work, const std::string& where = "");
/// All ranks have failed alike, and rank 0 has printed why.
struct AgreedFailure {
  int status;
};
/// Throws AgreedFailure on all ranks if any of them failed. Collective.
void agree(const MpiEnvironment& mpi, const Failure& failure);
/// Runs `work` and agrees on what came of it. Collective.
void on_all_ranks(const MpiEnvironment& mpi, const std::function<void()>& work);
/// Rank 0's text, on all ranks. Collective.
std::string broadcast_text(const MpiEnvironment& mpi, std::string text);
/// Prints this rank's failure, cleans up and ends the job; alone, returns the status.
int fail_job(const MpiEnvironment& mpi, const Failure& failure,
             const std::function<void()>& clean_up = {});

}  // namespace espalier
