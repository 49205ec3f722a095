#pragma once
// The tables of `regions` in the run file.

#include "espalier/record/table.h"

namespace espalier::regions {

/// /regions: one row for each region and period.
const TableSchema& regions_schema();
/// /exchanges: one row for each fragment that a region sent.
const TableSchema& exchanges_schema();

}  // namespace espalier::regions
