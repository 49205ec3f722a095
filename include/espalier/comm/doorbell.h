#pragma once
// MPI has no wait that sleeps. A rank that polls all the time takes cores from the ranks that
// train; a rank that sleeps sees messages late. So each rank of a node has a semaphore in the
// node's shared memory, and a rank that sends to it rings. A ring carries no data and orders
// nothing: MPI delivers the messages, and a rank polls from time to time without a ring, for
// messages of other nodes.

#include <mpi.h>
#include <semaphore.h>

#include <chrono>
#include <cstdint>
#include <vector>

namespace espalier {

class Doorbell {
 public:
  /// Collective over `communicator`, of which it uses only the ranks. Throws an internal Error if
  /// the node's memory cannot be shared.
  explicit Doorbell(MPI_Comm communicator);
  /// Collective over the ranks of the node, before MPI is finalised; never throws.
  ~Doorbell();
  Doorbell(const Doorbell&) = delete;
  Doorbell& operator=(const Doorbell&) = delete;

  /// Whether every rank can ring here, so that no message has arrived without a ring.
  bool reaches_all() const { return reaches_all_; }
  /// Wakes `rank`; no effect if it is on another node.
  void ring(int rank) const;
  /// Forgets the rings so far and returns their number. Messages sent before these rings can be
  /// received afterwards.
  std::int64_t clear() const;
  /// Sleeps until rung, a signal, or `at_most`; not at all if rung since clear().
  void sleep(std::chrono::microseconds at_most) const;

 private:
  MPI_Comm node_ = MPI_COMM_NULL;
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<sem_t*> bells_;  ///< by rank; null for ranks of other nodes
  sem_t* own_ = nullptr;
  bool reaches_all_ = false;
};

}  // namespace espalier
