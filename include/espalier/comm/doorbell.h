#pragma once
// MPI has no wait that sleeps. A rank that polls all the time takes cores from the ranks that
// train; a rank that sleeps sees messages late. So each rank of a node has a semaphore in memory
// that the node's ranks share, and a rank that sends to it rings. A ring carries no data and orders
// nothing: MPI delivers the messages, and a rank polls from time to time without a ring, for
// messages of other nodes, or of all ranks where the memory cannot be shared. The memory is no file
// of /dev/shm, which may be full, and ends with the last process that has it, however that ends.

#include <mpi.h>
#include <semaphore.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace espalier {

class Doorbell {
 public:
  /// Collective over `communicator`, of which it uses only the ranks.
  explicit Doorbell(MPI_Comm communicator);
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
  struct Bells;
  void share(MPI_Comm node, int ranks);

  Bells* shared_ = nullptr;    ///< of the node; null where its memory cannot be shared
  std::size_t bytes_ = 0;      ///< of `shared_`
  std::vector<sem_t*> bells_;  ///< by rank; null for those that cannot be rung from here
  sem_t alone_{};              ///< the own one, if none are shared
  sem_t* own_ = &alone_;
  bool reaches_all_ = false;
};

}  // namespace espalier
