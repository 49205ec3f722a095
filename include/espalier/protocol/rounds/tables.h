#pragma once
// The tables of run files that `rounds` writes: a row of /rounds for each merge, a row of /tasks
// for each task that ended.

#include "espalier/record/table.h"

namespace espalier::rounds {

const TableSchema& rounds_schema();
const TableSchema& tasks_schema();

}  // namespace espalier::rounds
