#pragma once
// Tables as protocols have them, for tests of the files.

#include <vector>

#include "espalier/record/table.h"

namespace espalier {

inline const TableSchema& rounds_schema() {
  static const TableSchema schema{
      "/rounds",
      {{"round", ColumnType::integer, "1", "number of the merge"},
       {"version", ColumnType::integer, "1", "version that the merge made"},
       {"virtual_time_s", ColumnType::real, "s", "emulated time"},
       {"wall_time_s", ColumnType::real, "s", "host time", true},
       {"server_busy_s", ColumnType::real, "s", "host time of the server", true},
       {"utilisation", ColumnType::real, "1", "busy fraction"},
       {"bytes_up", ColumnType::integer, "B", "bytes received"},
       {"train_loss", ColumnType::real, "1", "mean training loss"}}};
  return schema;
}
inline const TableSchema& tasks_schema() {
  static const TableSchema schema{
      "/tasks",
      {{"task", ColumnType::integer, "1", "number of the task"},
       {"outcome", ColumnType::text, "", "how it ended"},
       {"peak_bytes", ColumnType::integer, "B", "peak memory"},
       {"wall_compute_s", ColumnType::real, "s", "host time of training", true},
       {"behind_s", ColumnType::real, "s", "time by which the host fell behind", true},
       {"weight", ColumnType::real, "1", "weight in the merge"},
       {"rank", ColumnType::integer, "1", "MPI rank that did the work", true}}};
  return schema;
}
inline const TableSchema& evaluations_schema() {
  static const TableSchema schema{"/evaluations",
                                  {{"version", ColumnType::integer, "1", "version"},
                                   {"virtual_time_s", ColumnType::real, "s", "emulated time"},
                                   {"set", ColumnType::text, "", "samples"},
                                   {"loss", ColumnType::real, "1", "mean loss"},
                                   {"top1", ColumnType::real, "1", "accuracy"}}};
  return schema;
}
inline const TableSchema& clients_schema() {
  static const TableSchema schema{"/clients",
                                  {{"client", ColumnType::integer, "1", "number of the client"},
                                   {"device", ColumnType::text, "", "class of its device"}}};
  return schema;
}
inline std::vector<const TableSchema*> all_tables() {
  return {&rounds_schema(), &tasks_schema(), &evaluations_schema(), &clients_schema()};
}

}  // namespace espalier
