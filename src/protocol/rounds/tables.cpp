#include "espalier/protocol/rounds/tables.h"

namespace espalier::rounds {
namespace {

constexpr bool kWall = true;
constexpr auto kInteger = ColumnType::integer;
constexpr auto kReal = ColumnType::real;
constexpr auto kText = ColumnType::text;

}  // namespace

const TableSchema& rounds_schema() {
  static const TableSchema schema{
      "/rounds",
      {
          {"round", kInteger, "1", "number of the merge, from 1"},
          {"version", kInteger, "1", "version of the global model that the merge produced"},
          {"virtual_time_s", kReal, "s", "emulated time at which the window closed"},
          {"wall_time_s", kReal, "s", "host time since the run began", kWall},
          {"updates_merged", kInteger, "1", "updates in the merge"},
          {"updates_stale", kInteger, "1", "merged updates that started from an older version"},
          {"updates_dropped", kInteger, "1", "tasks of the window that ended without being merged"},
          {"staleness_mean", kReal, "versions", "mean staleness of the merged updates"},
          {"staleness_max", kInteger, "versions", "largest staleness of the merged updates"},
          {"coverage_min", kReal, "1", "fewest holders of any trained parameter in the window"},
          {"coverage_mean", kReal, "1", "mean number of holders of a trained parameter"},
          {"coverage_ever", kReal, "1",
           "share of the trained parameters that an update has ever held, up to this merge"},
          {"agreement", kReal, "1",
           "mean cosine between two updates on their common parameters, if record.agreement is "
           "set; else NaN"},
          {"train_loss", kReal, "1", "mean training loss of the merged updates, by samples"},
          {"bytes_down", kInteger, "B", "bytes sent to clients in the window"},
          {"bytes_up", kInteger, "B", "bytes received from clients in the window"},
          {"utilisation", kReal, "1", "busy share of the clients that had a task in the window"},
          {"server_busy_s", kReal, "s", "host time that the server spent working", kWall},
          {"checkpoint_s", kReal, "s", "host time that the server spent on checkpoints", kWall},
          {"peak_client_bytes", kInteger, "B", "largest peak memory of a task of the window"},
      }};
  return schema;
}

const TableSchema& tasks_schema() {
  static const TableSchema schema{
      "/tasks",
      {
          {"task", kInteger, "1", "number of the task, in order of sending"},
          {"client", kInteger, "1", "the client that the task was sent to"},
          {"base_version", kInteger, "1", "version of the global model that the task started from"},
          {"merged_version", kInteger, "1", "version that the update went into; -1: none"},
          {"staleness", kInteger, "versions", "version just before merge or drop - base version"},
          {"outcome", kText, "",
           "merged, dropped_stale, out_of_memory, crashed, rejected, unavailable or unfinished"},
          {"duplicates", kInteger, "1", "further copies of the update that arrived, left unused"},
          {"mode", kReal, "1", "factor of the device's speed in the task, of device.NAME.modes"},
          {"link_mode", kReal, "1",
           "factor of the rates of its links in the task, of device.NAME.link_modes"},
          {"sent_s", kReal, "s", "emulated time of sending"},
          {"finished_s", kReal, "s", "emulated time of the update's arrival or of the failure"},
          {"download_s", kReal, "s", "emulated time of the way down"},
          {"compute_s", kReal, "s", "emulated time of training"},
          {"upload_s", kReal, "s", "emulated time of the way up"},
          {"server_s", kReal, "s",
           "emulated time in the queues, on the links and the processor of the server"},
          {"wall_compute_s", kReal, "s", "host time of training", kWall},
          {"behind_s", kReal, "s", "emulated time by which the host fell behind in a paced run",
           kWall},
          {"bytes_down", kInteger, "B",
           "size of the submodel sent, with the frozen values that the client lacks"},
          {"bytes_up", kInteger, "B", "size of the update sent back"},
          {"state_bytes", kInteger, "B", "size of the client state that rides along, on no link"},
          {"parameters", kInteger, "1", "trained parameters of the submodel"},
          {"flops", kInteger, "flop", "floating-point operations of the task"},
          {"peak_bytes", kInteger, "B", "peak memory of the task"},
          {"search_peak_bytes", kInteger, "B",
           "peak memory of its search for a submodel; 0: it had none"},
          {"cap_bytes", kInteger, "B", "memory of the client's device"},
          {"asked_bytes", kInteger, "B",
           "the allocation that was refused when it ran out; 0: it did not"},
          {"samples", kInteger, "1", "training samples of the client"},
          {"steps", kInteger, "1", "optimiser steps done"},
          {"train_loss", kReal, "1", "mean training loss over the task's steps"},
          {"local_loss", kReal, "1",
           "mean loss on the client's local test, of what it was sent, before it trains"},
          {"local_top1", kReal, "1", "likewise, share of samples with the right class"},
          {"weight", kReal, "1", "weight of the update in its merge"},
          {"share", kReal, "1",
           "share of the model's width that was kept; adaptcl: of its parameters"},
          {"rank", kInteger, "1", "MPI rank that did the work", kWall},
      }};
  return schema;
}

}  // namespace espalier::rounds
