// Rings between ranks, and ranks that cannot share memory. Run on 1, 2 and 3 ranks.

#include "espalier/comm/doorbell.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdio>
#include <optional>

#include "espalier/comm/environment.h"

namespace {

using espalier::Doorbell;
using espalier::MpiEnvironment;
using std::chrono::seconds;

void expect(const MpiEnvironment& mpi, bool is_right, const char* what) {
  if (is_right) return;
  fmt::print(stderr, "rank {}: {}\n", mpi.rank(), what);
  mpi.abort_job(1);
}

void barrier(const MpiEnvironment& mpi) { ESPALIER_MPI(MPI_Barrier(mpi.communicator())); }

/// Every rank rings all others, and itself.
void rings_arrive(const MpiEnvironment& mpi, const Doorbell& bell) {
  barrier(mpi);
  for (int rank = 0; rank < mpi.size(); ++rank) bell.ring(rank);
  barrier(mpi);
  bell.sleep(seconds(100));  // not at all, so that the test ends in time
  expect(mpi, bell.clear() == mpi.size(), "rings are missing");
  expect(mpi, bell.clear() == 0, "rings came twice");
}

/// Without a file to share, on rank `poor` alone.
void no_rank_hangs_without_shared_memory(const MpiEnvironment& mpi, int poor) {
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  if (mpi.rank() == poor) {
    const rlimit none{3, before.rlim_max};  // the standard streams
    setrlimit(RLIMIT_NOFILE, &none);
  }
  const Doorbell bell(mpi.communicator());
  setrlimit(RLIMIT_NOFILE, &before);
  expect(mpi, bell.reaches_all() == (mpi.size() == 1), "who cannot be rung is not known");
  for (int rank = 0; rank < mpi.size(); ++rank) bell.ring(rank);
  expect(mpi, bell.clear() == 1, "a rank rings itself");
  bell.sleep(std::chrono::microseconds(10));
  barrier(mpi);
}

}  // namespace

int main(int argc, char** argv) {
  const MpiEnvironment mpi(&argc, &argv);
  expect(mpi, mpi.doorbell().reaches_all(), "the ranks of this machine cannot ring each other");
  rings_arrive(mpi, mpi.doorbell());
  for (int poor = 0; poor < mpi.size(); ++poor) no_rank_hangs_without_shared_memory(mpi, poor);
  rings_arrive(mpi, mpi.doorbell());
  return 0;
}
