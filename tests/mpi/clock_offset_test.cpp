// The ranks' clocks against rank 0's. On one machine all ranks read the same steady clock, so the
// offset must be zero within the reported error. Run on 1, 2 and 3 ranks.

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

#include "espalier/base/error.h"
#include "espalier/comm/environment.h"

int main(int argc, char** argv) {
  using namespace espalier;
  const MpiEnvironment mpi(&argc, &argv);
  const MpiEnvironment::ClockOffset found = mpi.clock_offset();
  const bool within = std::chrono::abs(found.offset) <= found.error;
  const bool measured = mpi.rank() == 0 ? found.error.count() == 0 : found.error.count() > 0;
  if (within && measured) return 0;
  fmt::print(stderr, "rank {}: offset {} ns, error {} ns\n", mpi.rank(), found.offset.count(),
             found.error.count());
  mpi.abort_job(1);
}
