#include "espalier/protocol/regions/tables.h"

namespace espalier::regions {
namespace {

constexpr auto kInteger = ColumnType::integer;
constexpr auto kReal = ColumnType::real;

}  // namespace

const TableSchema& regions_schema() {
  static const TableSchema schema{
      "/regions",
      {
          {"period", kInteger, "1", "number of the period, from 1"},
          {"region", kInteger, "1", "number of the region, which is a client"},
          {"steps", kInteger, "1", "steps of the inner optimiser in the period"},
          {"lost_steps", kInteger, "1",
           "steps of the period that a crash undid, or that it was away for"},
          {"samples", kInteger, "1", "samples trained, counting repeats"},
          {"tokens", kInteger, "1", "labels trained: samples, or positions of texts"},
          {"train_loss", kReal, "1", "mean training loss over the period's samples"},
          {"reached_s", kReal, "s", "emulated time at which the region ended the period"},
          {"compute_s", kReal, "s", "emulated time of its steps"},
          {"stall_s", kReal, "s", "emulated time that it waited for fragments"},
          {"peak_bytes", kInteger, "B", "largest memory of the region so far"},
      }};
  return schema;
}

const TableSchema& exchanges_schema() {
  static const TableSchema schema{
      "/exchanges",
      {
          {"exchange", kInteger, "1", "number of the exchange, in order of sending"},
          {"fragment", kInteger, "1", "number of the fragment, from 0"},
          {"region", kInteger, "1", "the region"},
          {"sent_step", kInteger, "1",
           "step of the region after which it sent its values; -1: not at all"},
          {"applied_step", kInteger, "1",
           "step after which it applied the merged values; -1: not at all"},
          {"sent_s", kReal, "s", "emulated time at which the values were handed to the link"},
          {"arrived_s", kReal, "s", "emulated time at which the merged values arrived"},
          {"applied_s", kReal, "s", "emulated time at which the region applied them"},
          {"stall_s", kReal, "s", "emulated time that the region waited for them"},
          {"lost", kInteger, "1",
           "1 if the region's message was lost, and the merge went without it"},
          {"bytes_up", kInteger, "B", "bytes that the region sent"},
          {"bytes_down", kInteger, "B", "bytes that the region received"},
          {"norm", kReal, "1", "L2 norm of the region's difference to the shared copy"},
          {"weight", kReal, "1",
           "weight of the region in the merge, all of which sum to 1; 0: it took no part"},
      }};
  return schema;
}

}  // namespace espalier::regions
