#pragma once
// The tables that every run file has, whatever the protocol: /evaluations and /clients.

#include <vector>

#include "espalier/engine/evaluation.h"
#include "espalier/record/run_file.h"
#include "espalier/record/table.h"
#include "espalier/train/experiment.h"

namespace espalier {

const TableSchema& evaluations_schema();
const TableSchema& clients_schema();
std::vector<const TableSchema*> engine_tables();
/// All tables of a run file whose protocol has `own`.
std::vector<const TableSchema*> with_engine_tables(std::vector<const TableSchema*> own);

/// Appends a row.
void record(RunFile& records, const Evaluation& evaluation);
/// Appends a row for each client.
void record_clients(RunFile& records, const Experiment& experiment);

}  // namespace espalier
