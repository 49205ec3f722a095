#include "espalier/protocol/split/tables.h"

namespace espalier::split {
namespace {

constexpr auto kInteger = ColumnType::integer;
constexpr auto kReal = ColumnType::real;

}  // namespace

const TableSchema& split_rounds_schema() {
  static const TableSchema schema{
      "/split_rounds",
      {
          {"round", kInteger, "1", "number of the round, from 1"},
          {"client", kInteger, "1", "number of the worker, which is a client"},
          {"cluster", kInteger, "1", "number of its cluster in the round, from 0"},
          {"batch", kInteger, "1", "planned samples of a batch"},
          {"iterations", kInteger, "1",
           "iterations in which it trained; of split.local_steps batches each with models, else of "
           "one"},
          {"samples", kInteger, "1", "samples in their batches, counting repeats"},
          {"train_loss", kReal, "1", "mean training loss over these samples"},
          {"weight", kReal, "1",
           "weight of its bottom or model in the mean; those of a round sum to 1"},
          {"begun_s", kReal, "s",
           "emulated time at which its host handed the first weights to the link"},
          {"compute_s", kReal, "s", "emulated time of its forward and backward passes"},
          {"transfer_s", kReal, "s",
           "emulated time that its messages were on links and in the queues before them"},
          {"waiting_s", kReal, "s",
           "emulated time that its messages waited at the host for those of other workers"},
          {"top_s", kReal, "s",
           "emulated time that it waited for the host's work: steps of the top, or means"},
          {"ended_s", kReal, "s",
           "emulated time at which its host had the last weights of all workers: begun_s and the "
           "four "
           "times"},
          {"bytes_up", kInteger, "B", "bytes that it sent to its host"},
          {"bytes_down", kInteger, "B", "bytes that it received from its host"},
          {"peak_bytes", kInteger, "B", "largest memory of the worker in the round"},
      }};
  return schema;
}

const TableSchema& clusters_schema() {
  static const TableSchema schema{
      "/clusters",
      {
          {"round", kInteger, "1", "number of the round, from 1"},
          {"cluster", kInteger, "1", "number of the cluster in the round, from 0"},
          {"host", kInteger, "1", "client that holds the top, or takes the means; -1: the server"},
          {"workers", kInteger, "1", "workers in the cluster"},
          {"batch", kInteger, "1", "planned samples of all its workers' batches"},
          {"iterations", kInteger, "1", "iterations of the round"},
          {"train_loss", kReal, "1", "mean training loss over its samples"},
          {"weight", kReal, "1", "weight of its model in the mean; those of a round sum to 1"},
          {"label_divergence", kReal, "1",
           "Kullback-Leibler divergence (in nats) of the labels in its workers' batches from those "
           "of all clients, each client with the same weight"},
          {"top_s", kReal, "s",
           "emulated time of the host's work, with the wait for the processor"},
          {"ended_s", kReal, "s", "emulated time at which the server had its model"},
          {"waiting_s", kReal, "s",
           "emulated time from there to the end of the round, in which it waited for other "
           "clusters"},
          {"server_bytes_up", kInteger, "B", "bytes of the cluster that the server received"},
          {"server_bytes_down", kInteger, "B", "bytes that the server sent to the cluster"},
          {"device_bytes", kInteger, "B", "bytes between its clients"},
          {"peak_bytes", kInteger, "B", "largest memory of the host's work in the round"},
      }};
  return schema;
}

const TableSchema& iterations_schema() {
  static const TableSchema schema{
      "/iterations",
      {
          {"round", kInteger, "1", "number of the round, from 1"},
          {"cluster", kInteger, "1", "number of the cluster in the round, from 0"},
          {"iteration", kInteger, "1", "number of the iteration in the round, from 1"},
          {"samples", kInteger, "1", "samples that all its workers trained"},
          {"train_loss", kReal, "1", "mean training loss over these samples"},
          {"received_s", kReal, "s",
           "emulated time at which the host had the features or models of all"},
          {"stepped_s", kReal, "s",
           "emulated time at which it had trained the top on them, or taken the mean"},
      }};
  return schema;
}

}  // namespace espalier::split
