#pragma once
// The rows of a round that has ended.

#include "espalier/protocol/split/round.h"
#include "espalier/record/run_file.h"

namespace espalier::split {

void record(RunFile& records, const Round& round, bool with_iterations);

}  // namespace espalier::split
