#include "espalier/engine/tables.h"

namespace espalier {
namespace {

constexpr auto kInteger = ColumnType::integer;
constexpr auto kReal = ColumnType::real;
constexpr auto kText = ColumnType::text;

}  // namespace

const TableSchema& evaluations_schema() {
  static const TableSchema schema{
      "/evaluations",
      {
          {"version", kInteger, "1", "version of the global model that was evaluated"},
          {"virtual_time_s", kReal, "s", "emulated time at which that version was produced"},
          {"set", kText, "",
           "test: the model's head on the test data, or the mean of all members of an ensemble; "
           "exit 1, ..., mean of exits: its further classifiers; mean of 1, ...: its first "
           "members"},
          {"loss", kReal, "1", "mean loss"},
          {"top1", kReal, "1", "share of samples whose class has the highest score"},
          {"top5", kReal, "1", "share of samples whose class is among the five highest scores"},
          {"perplexity", kReal, "1", "exponential of the loss, for language models; else NaN"},
      }};
  return schema;
}

const TableSchema& clients_schema() {
  static const TableSchema schema{
      "/clients",
      {
          {"client", kInteger, "1", "number of the client, from 0"},
          {"device", kText, "", "class of its device"},
          {"memory_bytes", kInteger, "B", "memory of the device"},
          {"gflops", kReal, "Gflop/s", "arithmetic rate of the device"},
          {"down_mbps", kReal, "Mbit/s", "rate of the link to the client"},
          {"up_mbps", kReal, "Mbit/s", "rate of the link from the client"},
          {"latency_ms", kReal, "ms", "latency of the link"},
          {"samples", kInteger, "1", "training samples that the client holds"},
      }};
  return schema;
}

std::vector<const TableSchema*> engine_tables() { return with_engine_tables({}); }

std::vector<const TableSchema*> with_engine_tables(std::vector<const TableSchema*> own) {
  own.insert(own.end(), {&evaluations_schema(), &clients_schema()});
  return own;
}

void record(RunFile& records, const Evaluation& evaluation) {
  Row row(evaluations_schema());
  row.set("version", evaluation.version)
      .set("virtual_time_s", seconds(evaluation.time))
      .set("set", evaluation.set)
      .set("loss", evaluation.loss)
      .set("top1", evaluation.top1)
      .set("top5", evaluation.top5)
      .set("perplexity", evaluation.perplexity);
  records.append(row);
}

void record_clients(RunFile& records, const Experiment& e) {
  for (std::int64_t client = 0; client < e.fleet->size(); ++client) {
    const DeviceClass& device = e.fleet->device(client);
    Row row(clients_schema());
    row.set("client", client)
        .set("device", device.name)
        .set("memory_bytes", memory_bytes(device))
        .set("gflops", device.gflops)
        .set("down_mbps", device.down_mbps)
        .set("up_mbps", device.up_mbps)
        .set("latency_ms", device.latency_ms)
        .set("samples", e.samples_of(client));
    records.append(row);
  }
}

}  // namespace espalier
