#include "espalier/comm/doorbell.h"

#include <cerrno>
#include <cstddef>
#include <ctime>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/comm/environment.h"

namespace espalier {

Doorbell::Doorbell(MPI_Comm communicator) {
  int size = 0;
  int rank = 0;
  int node_size = 0;
  ESPALIER_MPI(MPI_Comm_size(communicator, &size));
  ESPALIER_MPI(MPI_Comm_rank(communicator, &rank));
  ESPALIER_MPI(MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node_));
  ESPALIER_MPI(MPI_Comm_size(node_, &node_size));
  reaches_all_ = node_size == size;

  ESPALIER_MPI(MPI_Win_allocate_shared(sizeof(sem_t), 1, MPI_INFO_NULL, node_, &own_, &window_));
  ESPALIER_CHECK(sem_init(own_, 1, 0) == 0, "sem_init failed ({})", errno);
  // No rank may ring a bell before it exists.
  ESPALIER_MPI(MPI_Barrier(node_));

  MPI_Group all = MPI_GROUP_NULL;
  MPI_Group here = MPI_GROUP_NULL;
  ESPALIER_MPI(MPI_Comm_group(communicator, &all));
  ESPALIER_MPI(MPI_Comm_group(node_, &here));
  std::vector<int> ranks(static_cast<std::size_t>(node_size));
  std::iota(ranks.begin(), ranks.end(), 0);
  std::vector<int> of_all(ranks.size());
  ESPALIER_MPI(MPI_Group_translate_ranks(here, node_size, ranks.data(), all, of_all.data()));
  MPI_Group_free(&all);
  MPI_Group_free(&here);
  bells_.assign(static_cast<std::size_t>(size), nullptr);
  for (int i : ranks) {
    MPI_Aint bytes = 0;
    int unit = 0;
    sem_t* bell = nullptr;
    ESPALIER_MPI(MPI_Win_shared_query(window_, i, &bytes, &unit, &bell));
    bells_[static_cast<std::size_t>(of_all[static_cast<std::size_t>(i)])] = bell;
  }
}

Doorbell::~Doorbell() {
  if (window_ != MPI_WIN_NULL) MPI_Win_free(&window_);
  if (node_ != MPI_COMM_NULL) MPI_Comm_free(&node_);
}

void Doorbell::ring(int rank) const {
  // Fails only after 2^31 rings that the other rank has not cleared.
  if (sem_t* bell = bells_[static_cast<std::size_t>(rank)]; bell != nullptr) sem_post(bell);
}

std::int64_t Doorbell::clear() const {
  std::int64_t rings = 0;
  while (sem_trywait(own_) == 0) ++rings;
  return rings;
}

void Doorbell::sleep(std::chrono::microseconds at_most) const {
  timespec until{};
  clock_gettime(CLOCK_MONOTONIC, &until);
  const auto end = std::chrono::nanoseconds(until.tv_nsec) + at_most;
  until.tv_sec += end / std::chrono::seconds(1);
  until.tv_nsec = (end % std::chrono::seconds(1)).count();
  // Decreasing the semaphore would hide the ring from clear(), so it is put back.
  if (sem_clockwait(own_, CLOCK_MONOTONIC, &until) == 0) sem_post(own_);
}

}  // namespace espalier
