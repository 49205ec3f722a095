#include "espalier/protocol/split/round.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "espalier/base/error.h"
#include "espalier/protocol/split/models.h"
#include "espalier/train/evaluate.h"

namespace espalier::split {
namespace {

/// The plan, in which every client has one part and every cluster has work.
RoundPlan checked(RoundPlan plan) {
  std::set<std::int64_t> clients;
  ESPALIER_CHECK(!plan.clusters.empty(), "a plan has no cluster");
  for (const ClusterPlan& cluster : plan.clusters) {
    ESPALIER_CHECK(cluster.iterations > 0 && !cluster.workers.empty() && cluster.weight > 0,
                   "a cluster of {} workers has {} iterations and weight {}",
                   cluster.workers.size(), cluster.iterations, cluster.weight);
    ESPALIER_CHECK(cluster.host == kServer || clients.insert(cluster.host).second,
                   "client {} has two parts in a plan", cluster.host);
    std::int64_t last = -1;
    for (const WorkerPlan& worker : cluster.workers) {
      ESPALIER_CHECK(worker.client > last && clients.insert(worker.client).second,
                     "client {} has two parts in a plan, or not its place", worker.client);
      ESPALIER_CHECK(worker.batch > 0 && worker.weight > 0, "client {} has batch {} and weight {}",
                     worker.client, worker.batch, worker.weight);
      last = worker.client;
    }
  }
  return plan;
}

}  // namespace

Round::Round(const Experiment& experiment, const Parts& parts, const Costs& costs, Clock& clock,
             Links links, RoundPlan plan, RoundStart start)
    : experiment_(experiment),
      parts_(parts),
      costs_(costs),
      clock_(clock),
      links_(std::move(links)),
      plan_(checked(std::move(plan))),
      start_(std::move(start)),
      relay_(experiment, parts, costs, clock, plan_.clusters, start_) {
  for (const ClusterPlan& cluster : plan_.clusters) {
    clusters_.push_back({.plan = cluster});
    Cluster& made = clusters_.back();
    for (const WorkerPlan& worker : cluster.workers) {
      made.workers.push_back(workers_.size());
      workers_.push_back({.plan = worker, .cluster = std::ssize(clusters_) - 1});
    }
  }
  open_ = std::ssize(clusters_);
}

void Round::begin() {
  relay_.begin();
  for (std::size_t index = 0; index < clusters_.size(); ++index) begin_top(index);
}

void Round::take(const Clock::Event& event) {
  const Turn turn = relay_.numbers().turn(event.flight.number);
  if (turn.party.is_top) {
    top_done(turn, event);
  } else {
    worker_done(turn.party.index, event);
  }
}

Nanoseconds Round::ended() const {
  Nanoseconds last = 0;
  for (const Cluster& cluster : clusters_) last = std::max(last, cluster.ended);
  return last;
}

// Flights ---------------------------------------------------------------------------------------

Flight Round::top_flight(std::size_t index, std::int64_t turn) const {
  return {.number = relay_.numbers().number({{true, index}, turn}),
          .endpoint = static_cast<Endpoint>(index)};
}

/// The top's weights go to its host. A client that is the host gets the whole model, also for its
/// workers.
void Round::begin_top(std::size_t index) {
  Cluster& cluster = clusters_[index];
  const Endpoint host = cluster.plan.host;
  Flight flight = top_flight(index, 0);
  flight.sent = start_.now;
  if (host != kServer) {
    const std::int64_t bytes = costs_.model_bytes();
    flight.sent = links_.send(kServer, start_.now, bytes);
    flight.download = links_.down_time(kServer, host, start_.version, bytes);
    cluster.server_bytes_down += bytes;
  }
  clock_.send(flight);
}

/// The host has the messages of all workers.
void Round::step_top(std::size_t index) {
  const Cluster& cluster = clusters_[index];
  std::vector<std::int64_t> sizes;
  for (const std::size_t i : cluster.workers) sizes.push_back(workers_[i].asked);
  Flight flight = top_flight(index, cluster.iterations + 1);
  flight.sent = cluster.ready;
  flight.flops = costs_.top_flops(sizes);
  if (cluster.plan.host == kServer) {
    flight.compute = links_.processing_time(flight.flops);
    flight.download = links_.process(cluster.ready, flight.flops) - cluster.ready - flight.compute;
  } else {
    std::vector<Arrival> batches;
    for (const std::size_t i : cluster.workers) {
      batches.push_back({workers_[i].received, workers_[i].asked});
    }
    flight.compute = costs_.top_done(device(cluster.plan.host), batches) - cluster.ready;
  }
  clock_.send(flight);
}

/// The host has what its workers return at the end. A client that is the host takes the mean of
/// bottoms, and sends the whole model to the server.
void Round::finish_top(std::size_t index, Nanoseconds time) {
  Cluster& cluster = clusters_[index];
  Flight flight = top_flight(index, cluster.iterations + 1);
  flight.sent = time;
  if (const Endpoint host = cluster.plan.host; host != kServer) {
    const std::int64_t bytes = costs_.model_bytes();
    flight.flops = costs_.closing_flops(std::ssize(cluster.workers));
    flight.compute = compute_time(device(host), flight.flops);
    flight.upload = links_.up_time(kServer, host, start_.version, bytes);
    cluster.server_bytes_up += bytes;
  }
  clock_.send(flight);
}

/// The host hands a message to the link at `time`: weights, or a gradient.
void Round::send_bottom(std::size_t index, Nanoseconds time) {
  Worker& worker = workers_[index];
  Cluster& cluster = clusters_[static_cast<std::size_t>(worker.cluster)];
  const Endpoint host = cluster.plan.host;
  const std::int64_t client = worker.plan.client;
  const WorkerJob job =
      costs_.job(device(client), worker.plan, cluster.plan.iterations, worker.jobs);
  if (worker.jobs == 0) worker.begun = time;
  Flight flight{.number = relay_.numbers().number({{false, index}, worker.jobs++}),
                .endpoint = client};
  flight.bytes_down = job.bytes_down;
  flight.bytes_up = job.bytes_up;
  flight.flops = job.flops;
  flight.compute = job.compute;
  worker.asked = job.samples;
  worker.samples += job.samples;
  worker.handed = time;
  worker.bytes_down += flight.bytes_down;
  worker.bytes_up += flight.bytes_up;
  if (host == kServer) {
    cluster.server_bytes_down += flight.bytes_down;
    cluster.server_bytes_up += flight.bytes_up;
  } else {
    cluster.device_bytes += flight.bytes_down + flight.bytes_up;
  }
  flight.sent = links_.send(host, time, flight.bytes_down);
  flight.download = links_.down_time(host, client, start_.version, flight.bytes_down);
  flight.upload = links_.up_time(host, client, start_.version, flight.bytes_up);
  clock_.send(flight);
}

// Answers ---------------------------------------------------------------------------------------

void Round::worker_done(std::size_t index, const Clock::Event& event) {
  const Flight& flight = event.flight;
  Worker& worker = workers_[index];
  const auto place = static_cast<std::size_t>(worker.cluster);
  Cluster& cluster = clusters_[place];
  worker.received = links_.receive(cluster.plan.host, flight.finish, flight.bytes_up);
  const Nanoseconds down = flight.leaves() + flight.download - worker.handed;
  const Nanoseconds up = worker.received - (flight.finish - flight.upload);
  worker.compute += flight.compute;
  worker.transfer += down + up;
  const bool is_first = cluster.iterations == 0;
  const bool is_last = cluster.iterations == cluster.plan.iterations;
  if (has_features()) worker.model_transfer += (is_first ? down : 0) + (is_last ? up : 0);
  if (is_last || !has_features()) worker.result = BottomResult::decode(*event.answer->head);
  if (is_last) worker.weights = event.answer->payload;
  cluster.ready = std::max(cluster.ready, worker.received);
  if (--cluster.missing > 0) return;
  for (const std::size_t i : cluster.workers) {
    workers_[i].waiting += cluster.ready - workers_[i].received;
  }
  if (is_last) {
    finish_top(place, cluster.ready);
  } else {
    step_top(place);
  }
}

void Round::top_done(const Turn& turn, const Clock::Event& event) {
  Cluster& cluster = clusters_[turn.party.index];
  const Nanoseconds time = event.flight.finish;
  cluster.missing = std::ssize(cluster.workers);
  if (turn.turn > cluster.plan.iterations) {
    cluster.result = TopResult::decode(*event.answer->head);
    cluster.weights = event.answer->payload;
    end(cluster, time);
    return;
  }
  if (turn.turn > 0) end_iteration(cluster, time, TopResult::decode(*event.answer->head));
  if (cluster.iterations == costs_.jobs(cluster.plan.iterations)) {  // all jobs of workers are done
    finish_top(turn.party.index, time);
    return;
  }
  for (const std::size_t i : cluster.workers) {
    if (turn.turn > 0) workers_[i].top += time - cluster.ready;
    send_bottom(i, time);
  }
}

/// The host has done its work for an iteration.
void Round::end_iteration(Cluster& cluster, Nanoseconds time, const TopResult& result) {
  cluster.top += time - cluster.ready;
  Iteration iteration{.cluster = &cluster - clusters_.data(),
                      .iteration = ++cluster.iterations,
                      .received = cluster.ready,
                      .stepped = time};
  for (std::size_t k = 0; k < cluster.workers.size(); ++k) {
    Worker& worker = workers_[cluster.workers[k]];
    const double loss_sum = has_features() ? result.loss_sums[k] : worker.result.loss_sum;
    worker.loss_sum += loss_sum;
    iteration.samples += worker.asked;
    iteration.loss_sum += loss_sum;
  }
  iterations_.push_back(iteration);
}

/// The server has the cluster's model, or its bottoms and top, and adds them to the mean.
void Round::end(Cluster& cluster, Nanoseconds time) {
  const std::int64_t bytes = costs_.merged_bytes(cluster.plan);
  const Nanoseconds there =
      cluster.plan.host == kServer ? time : links_.receive(kServer, time, bytes);
  cluster.ended = links_.process(there, merge_flops(bytes));
  --open_;
}

// Results ---------------------------------------------------------------------------------------

double Round::share(const Cluster& cluster) const {
  double all = 0;
  for (const Cluster& other : clusters_) all += other.plan.weight;
  return cluster.plan.weight / all;
}

double Round::share(const Worker& worker) const {
  const Cluster& cluster = clusters_[static_cast<std::size_t>(worker.cluster)];
  double all = 0;
  for (const WorkerPlan& other : cluster.plan.workers) all += other.weight;
  return share(cluster) * (worker.plan.weight / all);
}

std::vector<Observation> Round::observations() const {
  std::vector<Observation> seen;
  for (const Worker& worker : workers_) {
    seen.push_back({.client = worker.plan.client,
                    .cluster = worker.cluster,
                    .samples = worker.samples,
                    .compute = worker.compute,
                    .transfer = worker.transfer - worker.model_transfer,
                    .train_loss = worker.mean_loss()});
  }
  std::ranges::sort(seen, {}, &Observation::client);
  return seen;
}

void add_round_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                    std::shared_ptr<const Parts> parts) {
  if (parts->exchange == Exchange::models) {
    add_model_jobs(kinds, residents, experiment, parts);
    return;
  }
  add_bottom_jobs(kinds, residents, experiment, parts);
  add_top_jobs(kinds, residents, experiment, parts);
}

void merge(const Experiment& experiment, const Parts& parts, const Round& round,
           Parameters& model) {
  PlanCache& plans = *experiment.plans;
  struct Term {
    std::shared_ptr<const Plan> plan;
    const Bytes* values;
    double weight;
  };
  std::vector<Term> terms;
  std::map<const Submodel*, double> first;  // weights, so that equal ones are exactly 1
  const auto add = [&](const Submodel& part, const Bytes& values, double weight) {
    weight /= first.try_emplace(&part, weight).first->second;
    const auto dense = plans.buffer_layout(part, Packing::dense);
    terms.push_back(
        {plans.plan(*dense, model.buffer_layout(), nullptr, kTrained), &values, weight});
  };
  for (const Round::Cluster& cluster : round.clusters()) {
    if (parts.exchange == Exchange::features) {
      double all = 0;
      for (const std::size_t i : cluster.workers) all += round.workers()[i].plan.weight;
      for (const std::size_t i : cluster.workers) {
        const Round::Worker& worker = round.workers()[i];
        add(parts.bottom, *worker.weights, cluster.plan.weight * (worker.plan.weight / all));
      }
    }
    add(parts.top, *cluster.weights, cluster.plan.weight);
  }
  constexpr std::int64_t kBlock = 1 << 16;
  std::vector<double> sum(kBlock), weight(kBlock);
  const Range trained = model.buffer_layout().kind_range(Kind::trainable);
  double size = 0;
  for (std::int64_t begin = trained.begin; begin < trained.end; begin += kBlock) {
    const Range range{begin, std::min(begin + kBlock, trained.end)};
    std::ranges::fill(sum, 0.0);
    std::ranges::fill(weight, 0.0);
    for (const Term& term : terms) {
      term.plan->accumulate(range, floats_of(*term.values).data(), term.weight, sum.data(),
                            weight.data());
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(range.size()); ++i) {
      if (weight[i] == 0) continue;  // padding
      const auto mean = static_cast<float>(sum[i] / weight[i]);
      model.data()[range.begin + static_cast<std::int64_t>(i)] = mean;
      size += std::abs(static_cast<double>(mean));
    }
  }
  if (!std::isfinite(size)) {
    throw NotFiniteError("the values of a worker are not finite; lower train.lr or set train.clip");
  }
  forget_statistics(model);
}

}  // namespace espalier::split
