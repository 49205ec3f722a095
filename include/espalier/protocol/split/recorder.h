#pragma once
// The rows of a round that has ended.

#include "espalier/protocol/split/labels.h"
#include "espalier/protocol/split/round.h"
#include "espalier/record/run_file.h"

namespace espalier::split {

/// `labels`: of each client.
void record(RunFile& records, const Round& round, std::span<const LabelShares> labels,
            bool with_iterations);

}  // namespace espalier::split
