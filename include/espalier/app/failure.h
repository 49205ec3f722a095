#pragma once
// Failures of a command on several ranks. An exception on any rank becomes a status and a sentence.
// As long as all ranks do the same steps, they agree on a failure, and rank 0 prints one. Later the
// rank that failed prints its failure and ends the job, because others may wait for it.

#include <functional>
#include <string>

#include "espalier/comm/environment.h"

namespace espalier {

struct Failure {
  int status = 0;  ///< exit status; 0: nothing failed
  std::string message;
};

/// Runs `work` and returns its failure, if any. Messages of exceptions other than our own get the
/// prefix `where`.
Failure attempt(const std::function<void()>& work, const std::string& where = "");
/// Thrown on all ranks, after rank 0 has printed the reason.
struct AgreedFailure {
  int status;
};
/// Throws AgreedFailure on all ranks if any of them failed. Collective.
void agree(const MpiEnvironment& mpi, const Failure& failure);
/// Runs `work` and agrees on its failure. Collective.
void on_all_ranks(const MpiEnvironment& mpi, const std::function<void()>& work);
/// Rank 0's text, on all ranks. Collective.
std::string broadcast_text(const MpiEnvironment& mpi, std::string text);
/// Prints this rank's failure, cleans up and ends the job; the only rank returns the status.
int fail_job(const MpiEnvironment& mpi, const Failure& failure,
             const std::function<void()>& clean_up = {});

}  // namespace espalier
