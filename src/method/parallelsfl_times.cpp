#include "espalier/method/parallelsfl_times.h"

#include <algorithm>
#include <cmath>

#include "espalier/device/emulated_time.h"
#include "espalier/protocol/split/links.h"

namespace espalier::split {
namespace {

constexpr double kSecond = 1e9;

/// Observed by expected time; 1 where the class makes no time, so that nothing can be learned.
double factor(Nanoseconds observed, double expected) {
  return expected > 0 ? static_cast<double>(observed) / expected : 1;
}

bool is_apart(double a, double b, double change) {
  return std::max(a, b) > (1 + change) * std::min(a, b);
}

}  // namespace

Slowness::Slowness(std::int64_t clients, double kept)
    : compute_(at(clients), 1.0),
      transfer_(at(clients), 1.0),
      observed_(at(clients), 0),
      kept_(kept) {}

void Slowness::observe(std::int64_t client, double compute, double transfer) {
  const double kept = observed_[at(client)]++ > 0 ? kept_ : 0;
  compute_[at(client)] = kept * compute_[at(client)] + (1 - kept) * compute;
  transfer_[at(client)] = kept * transfer_[at(client)] + (1 - kept) * transfer;
}

bool Slowness::differs(const Slowness& other, double change) const {
  for (std::size_t i = 0; i < compute_.size(); ++i) {
    if (is_apart(compute_[i], other.compute_[i], change)) return true;
    if (is_apart(transfer_[i], other.transfer_[i], change)) return true;
  }
  return false;
}

void Slowness::archive(Archive& archive) {
  archive.value("compute", compute_);
  archive.value("transfer", transfer_);
  archive.value("observed", observed_);
}

double ParallelTimes::link(std::int64_t from, std::int64_t to, std::int64_t bytes) const {
  const Fleet& fleet = *experiment_.fleet;
  return static_cast<double>(peer_time(fleet.device(from), fleet.device(to), bytes));
}

double ParallelTimes::step(std::int64_t worker, std::int64_t samples) const {
  return static_cast<double>(
      costs_.step_time(experiment_.fleet->device(worker), experiment_.batch_of(worker), samples));
}

double ParallelTimes::messages(std::int64_t worker, std::int64_t top, std::int64_t samples) const {
  return link(top, worker, costs_.down_bytes(samples)) +
         link(worker, top, costs_.up_bytes(samples));
}

double ParallelTimes::side_s(const Slowness& slowness, std::int64_t worker,
                             std::int64_t top) const {
  const std::int64_t batch = experiment_.batch_of(worker);
  const double compute = static_cast<double>(costs_.local_steps()) * step(worker, batch);
  return (slowness.compute(worker) * compute +
          slowness.transfer(worker) * messages(worker, top, batch)) /
         kSecond;
}

double ParallelTimes::top_s(const Slowness& slowness, std::int64_t top) const {
  const std::int64_t one[] = {experiment_.train.batch};
  return slowness.compute(top) *
         static_cast<double>(costs_.top_time(experiment_.fleet->device(top), one)) / kSecond;
}

/// A round of n iterations: each worker's first job, n - 1 times one between two iterations, and
/// its last one, if there is one; n times the host's work.
ClusterPace ParallelTimes::pace(const Slowness& slowness, const ClusterPlan& cluster) const {
  const DeviceClass& host = experiment_.fleet->device(cluster.host);
  const std::int64_t whole = costs_.model_bytes();
  std::vector<Arrival> first, between;
  double last = 0;
  for (const auto& [worker, batch, weight] : cluster.workers) {
    const auto time = [&](const WorkerJob& job) {
      return slowness.transfer(worker) * (link(cluster.host, worker, job.bytes_down) +
                                          link(worker, cluster.host, job.bytes_up)) +
             slowness.compute(worker) * static_cast<double>(job.compute);
    };
    const WholeJobs jobs = costs_.whole_jobs(experiment_.fleet->device(worker), batch);
    first.push_back({rounded(time(jobs.first)), batch});
    between.push_back({rounded(time(jobs.between)), batch});
    if (jobs.last) last = std::max(last, time(*jobs.last));
  }
  const auto stepped = [&](const std::vector<Arrival>& batches) {
    return static_cast<double>(costs_.top_done(host, batches, slowness.compute(cluster.host)));
  };
  const double model = slowness.transfer(cluster.host) *
                       static_cast<double>(transfer_time(host.down_mbps, host.latency_ms, whole) +
                                           transfer_time(host.up_mbps, host.latency_ms, whole));
  return {.iteration_s = stepped(between) / kSecond,
          .fixed_s = (model + stepped(first) - stepped(between) + last) / kSecond};
}

void ParallelTimes::learn(Slowness& slowness, const ClusterPlan& cluster, const WorkerPlan& worker,
                          const Observation& seen) const {
  double compute = 0, transfer = 0;
  for (std::int64_t batch = 0; batch < cluster.iterations * costs_.local_steps(); ++batch) {
    compute += step(worker.client, costs_.batch_at(worker, batch));
  }
  for (std::int64_t iteration = 0; iteration < cluster.iterations; ++iteration) {
    transfer += messages(worker.client, cluster.host, costs_.batch_at(worker, iteration));
  }
  slowness.observe(worker.client, factor(seen.compute, compute), factor(seen.transfer, transfer));
}

}  // namespace espalier::split
