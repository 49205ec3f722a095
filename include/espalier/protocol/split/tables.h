#pragma once
// The tables of a run file of `split`.

#include "espalier/record/table.h"

namespace espalier::split {

/// /split_rounds: one row for each round and worker.
const TableSchema& split_rounds_schema();
/// /clusters: one row for each round and cluster.
const TableSchema& clusters_schema();
/// /iterations: one row for each iteration of a cluster, if record.iterations asks for it.
const TableSchema& iterations_schema();

}  // namespace espalier::split
