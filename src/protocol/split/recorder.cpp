#include "espalier/protocol/split/recorder.h"

#include <algorithm>
#include <numeric>

#include "espalier/protocol/split/tables.h"

namespace espalier::split {
namespace {

void record_worker(RunFile& records, const Round& round, const Round::Worker& worker) {
  const Round::Cluster& cluster = round.clusters()[static_cast<std::size_t>(worker.cluster)];
  Row row(split_rounds_schema());
  row.set("round", round.version() + 1)
      .set("client", worker.plan.client)
      .set("cluster", worker.cluster)
      .set("batch", worker.plan.batch)
      .set("iterations", cluster.iterations)
      .set("samples", worker.samples)
      .set("train_loss", worker.mean_loss())
      .set("weight", round.share(worker))
      .set("begun_s", seconds(worker.begun))
      .set("compute_s", seconds(worker.compute))
      .set("transfer_s", seconds(worker.transfer))
      .set("waiting_s", seconds(worker.waiting))
      .set("top_s", seconds(worker.top))
      .set("ended_s", seconds(cluster.ready))
      .set("bytes_up", worker.bytes_up)
      .set("bytes_down", worker.bytes_down)
      .set("peak_bytes", worker.result.peak_bytes);
  records.append(row);
}

void record_cluster(RunFile& records, const Round& round, const Round::Cluster& cluster,
                    std::span<const LabelShares> labels) {
  double loss_sum = 0;
  std::int64_t samples = 0;
  for (const std::size_t i : cluster.workers) {
    loss_sum += round.workers()[i].loss_sum;
    samples += round.workers()[i].samples;
  }
  const std::vector<std::int64_t> sizes = batch_sizes(cluster.plan);
  Row row(clusters_schema());
  row.set("round", round.version() + 1)
      .set("cluster", &cluster - round.clusters().data())
      .set("host", cluster.plan.host)
      .set("workers", std::ssize(cluster.workers))
      .set("batch", std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}))
      .set("iterations", cluster.iterations)
      .set("train_loss", loss_sum / static_cast<double>(samples))
      .set("weight", round.share(cluster))
      .set("label_divergence",
           divergence(cluster_shares(cluster.plan, labels), mean_shares(labels)))
      .set("top_s", seconds(cluster.top))
      .set("ended_s", seconds(cluster.ended))
      .set("waiting_s", seconds(round.ended() - cluster.ended))
      .set("server_bytes_up", cluster.server_bytes_up)
      .set("server_bytes_down", cluster.server_bytes_down)
      .set("device_bytes", cluster.device_bytes)
      .set("peak_bytes", cluster.result.peak_bytes);
  records.append(row);
}

void record_iteration(RunFile& records, const Round& round, const Round::Iteration& iteration) {
  Row row(iterations_schema());
  row.set("round", round.version() + 1)
      .set("cluster", iteration.cluster)
      .set("iteration", iteration.iteration)
      .set("samples", iteration.samples)
      .set("train_loss", iteration.loss_sum / static_cast<double>(iteration.samples))
      .set("received_s", seconds(iteration.received))
      .set("stepped_s", seconds(iteration.stepped));
  records.append(row);
}

}  // namespace

void record(RunFile& records, const Round& round, std::span<const LabelShares> labels,
            bool with_iterations) {
  std::vector<const Round::Worker*> workers;
  for (const Round::Worker& worker : round.workers()) workers.push_back(&worker);
  std::ranges::sort(workers, {}, [](const Round::Worker* worker) { return worker->plan.client; });
  for (const Round::Worker* worker : workers) record_worker(records, round, *worker);
  for (const Round::Cluster& cluster : round.clusters()) {
    record_cluster(records, round, cluster, labels);
  }
  if (!with_iterations) return;
  for (const Round::Iteration& iteration : round.iterations()) {
    record_iteration(records, round, iteration);
  }
}

}  // namespace espalier::split
