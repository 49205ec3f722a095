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
          {"iterations", kInteger, "1", "batches that it trained"},
          {"samples", kInteger, "1", "samples in these batches, counting repeats"},
          {"train_loss", kReal, "1", "mean training loss over these samples"},
          {"weight", kReal, "1", "weight of its bottom in the mean; those of a round sum to 1"},
          {"begun_s", kReal, "s", "emulated time at which its host handed the bottom to the link"},
          {"compute_s", kReal, "s", "emulated time of its forward and backward passes"},
          {"transfer_s", kReal, "s",
           "emulated time that its messages were on links and in the queues before them"},
          {"waiting_s", kReal, "s",
           "emulated time that its messages waited at the host for those of other workers"},
          {"top_s", kReal, "s", "emulated time that it waited for the steps of the top"},
          {"ended_s", kReal, "s",
           "emulated time at which its cluster had all bottoms: begun_s and the four times"},
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
          {"host", kInteger, "1", "client that holds the top; -1: the server"},
          {"workers", kInteger, "1", "workers in the cluster"},
          {"batch", kInteger, "1", "planned samples of all its workers' batches"},
          {"iterations", kInteger, "1", "iterations of the round"},
          {"train_loss", kReal, "1", "mean training loss over its samples"},
          {"weight", kReal, "1", "weight of its model in the mean; those of a round sum to 1"},
          {"label_divergence", kReal, "1",
           "Kullback-Leibler divergence (in nats) of the labels in its workers' batches from those "
           "of all clients, each client with the same weight"},
          {"top_s", kReal, "s",
           "emulated time of the top's steps, with the wait for the processor"},
          {"ended_s", kReal, "s", "emulated time at which the server had its model"},
          {"waiting_s", kReal, "s",
           "emulated time from there to the end of the round, in which it waited for other "
           "clusters"},
          {"server_bytes_up", kInteger, "B", "bytes of the cluster that the server received"},
          {"server_bytes_down", kInteger, "B", "bytes that the server sent to the cluster"},
          {"device_bytes", kInteger, "B", "bytes between its clients"},
          {"peak_bytes", kInteger, "B", "largest memory of the top in the round"},
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
          {"samples", kInteger, "1", "samples of all its workers' batches"},
          {"train_loss", kReal, "1", "mean training loss over these samples"},
          {"received_s", kReal, "s", "emulated time at which the host had all features"},
          {"stepped_s", kReal, "s", "emulated time at which the top had been trained on them"},
      }};
  return schema;
}

}  // namespace espalier::split
