#pragma once
// MPI has no wait that sleeps: a rank either looks for messages again and again, which on a machine
// with fewer cores than ranks is taken from those that train, or sleeps and sees them late. So each
// rank of a node has a semaphore in memory that the node's ranks share; whoever sends to it rings.
// The bell carries nothing and orders nothing: a message is what MPI delivers, and a rank that was
// not rung (from another node) still looks from time to time.

#include <mpi.h>
#include <semaphore.h>

#include <chrono>
#include <cstdint>
#include <vector>

namespace espalier {

class Doorbell {
 public:
  /// Collective over `communicator`, which it only reads the ranks from. Throws an internal Error
  /// where the node's memory cannot be shared.
  explicit Doorbell(MPI_Comm communicator);
  /// Collective over the ranks of the node, before MPI is finalised; never throws.
  ~Doorbell();
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  /// Whether every rank can ring here, so that without a ring nothing has come.
  bool reaches_all() const { return reaches_all_; }
  /// Wakes `rank`; without effect if that is on another node.
  void ring(int rank) const;
  /// Forgets the rings so far and returns their number. What was sent before them can be received
  /// afterwards.
  std::int64_t clear() const;
  /// Sleeps until rung, a signal, or `at_most`; not at all if rung since clear().
  void sleep(std::chrono::microseconds at_most) const;

 private:
  MPI_Comm node_ = MPI_COMM_NULL;
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<sem_t*> bells_;  ///< by rank; null for those of other nodes
  sem_t* own_ = nullptr;
  bool reaches_all_ = false;
};

}  // namespace espalier
