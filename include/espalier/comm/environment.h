#pragma once
// MPI for the life of the process: initialises (funneled), duplicates one communicator, returns
// errors instead of aborting, and ends the whole job with one status if a rank fails. The only
// global state beside the allocator.

#include <mpi.h>

#include <chrono>
#include <optional>
#include <string>

#include "espalier/comm/doorbell.h"

namespace espalier {

/// Throws an internal Error with MPI's own text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call);
#define ESPALIER_MPI(call) ::espalier::check_mpi((call), #call)

/// Before MPI_Init: refuses (InputError) a Slurm step of several tasks started without PMIx, and
/// sets the environment so that a process without mpirun starts no helper daemon and does not
/// contact Slurm.
void check_launcher_before_init();
/// After MPI_Init: InputError if the launcher started more processes than MPI sees.
void check_launcher_after_init(int world_size);

class MpiEnvironment {
 public:
  /// Sets the rank that messages name. InputError if the launcher's processes do not see each other
  /// (the two checks above); MPI is finalised again before it throws.
  MpiEnvironment(int* argc, char*** argv);
  /// Finalises; never throws. Collective: waits for the other ranks, so a rank that fails alone
  /// calls abort_job() instead.
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  MPI_Comm communicator() const { return communicator_; }
  const Doorbell& doorbell() const { return *doorbell_; }
  /// All ranks: status 0 on all if it is 0 on all; otherwise the lowest failing rank's status and
  /// message reach every rank (so that bad input found on any rank ends the job cleanly, before
  /// messages are sent). Collective.
  struct Verdict {
    int status = 0;
    int rank = -1;  ///< the failing rank; -1 if none failed
    std::string message;
  };
  Verdict agree(int status, const std::string& message) const;
  /// Rank 0's steady clock minus this rank's, and the bound of its error. Collective. Taken at the
  /// middle of the shortest of several round trips: Cristian, Distributed Computing 3 (1989)
  /// 146-158.
  struct ClockOffset {
    std::chrono::nanoseconds offset{0};
    std::chrono::nanoseconds error{0};
  };
  ClockOffset clock_offset() const;
  /// Ends the job with this status, from any rank, at once; nothing is destroyed or finalised.
  [[noreturn]] void abort_job(int status) const;

  /// Name and version, such as "Open MPI v4.1.4". May be called before MPI is initialised and after
  /// it is finalised.
  static std::string library_version();

 private:
  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::optional<Doorbell> doorbell_;
};

}  // namespace espalier
