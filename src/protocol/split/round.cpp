#include "espalier/protocol/split/round.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "espalier/base/error.h"
#include "espalier/train/evaluate.h"

namespace espalier::split {
namespace {

const Purpose kTurns = register_purpose("split.turns");
const Purpose kMixtures = register_purpose("split.mixtures");

/// Each worker has another one as partner, and is the partner of one; shares are from a Beta
/// distribution.
std::vector<Mixture> mixtures_of(std::size_t workers, double alpha, Stream random) {
  std::vector<std::int64_t> circle(workers);
  std::iota(circle.begin(), circle.end(), 0);
  random.shuffle(circle);
  std::vector<Mixture> mixtures(workers);
  for (std::size_t i = 0; i < workers; ++i) {
    const double own = random.gamma(alpha), other = random.gamma(alpha);
    mixtures[static_cast<std::size_t>(circle[i])] = {circle[(i + 1) % workers],
                                                     own / (own + other)};
  }
  return mixtures;
}

/// Operations of adding `bytes` of weights to a mean.
std::int64_t merge_flops(std::int64_t bytes) {
  return kFlopsPerMergedValue * bytes / static_cast<std::int64_t>(sizeof(float));
}

void append(Bytes& all, std::span<const std::byte> more) {
  all.insert(all.end(), more.begin(), more.end());
}

/// Every client has one part, and every cluster has work.
void check(const RoundPlan& plan) {
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
}

}  // namespace

Round::Round(const Experiment& experiment, const Parts& parts, const Costs& costs, Clock& clock,
             Links links, RoundPlan plan, RoundStart start)
    : experiment_(experiment),
      parts_(parts),
      costs_(costs),
      clock_(clock),
      links_(std::move(links)),
      start_(std::move(start)) {
  check(plan);
  for (ClusterPlan& cluster : plan.clusters) {
    clusters_.push_back({.plan = std::move(cluster)});
    Cluster& made = clusters_.back();
    for (const WorkerPlan& worker : made.plan.workers) {
      made.workers.push_back(workers_.size());
      workers_.push_back({.plan = worker, .cluster = std::ssize(clusters_) - 1});
    }
  }
  open_ = std::ssize(clusters_);
}

void Round::begin() {
  for (std::size_t index = 0; index < clusters_.size(); ++index) begin_top(index);
}

void Round::take(const Clock::Event& event) {
  const Target target = targets_[static_cast<std::size_t>(event.flight.number)];
  if (target.is_top) {
    top_done(target.index, target.kind, event);
  } else {
    worker_done(target.index, event);
  }
}

Nanoseconds Round::ended() const {
  Nanoseconds last = 0;
  for (const Cluster& cluster : clusters_) last = std::max(last, cluster.ended);
  return last;
}

// Jobs ------------------------------------------------------------------------------------------

Flight Round::next_flight(Target target, Endpoint endpoint) {
  targets_.push_back(target);
  return {.number = std::ssize(targets_) - 1, .endpoint = endpoint};
}

void Round::send(const Flight& flight, JobKind kind, Bytes head, SharedBytes payload) {
  Job job{.kind = kind, .number = flight.number, .endpoint = flight.endpoint};
  job.needs_resident = true;
  job.version = start_.version;
  job.head = to_shared(std::move(head));
  job.payload = std::move(payload);
  clock_.send(flight, std::move(job));
}

/// The top's weights go to its host. A client that is the host gets the bottom's too, for its
/// workers.
void Round::begin_top(std::size_t index) {
  Cluster& cluster = clusters_[index];
  const Endpoint host = cluster.plan.host;
  TopTask task;
  task.version = start_.version;
  if (const auto state = start_.states.tops.find(static_cast<std::int64_t>(index));
      state != start_.states.tops.end()) {
    task.optimizer = state->second;
  }
  Flight flight = next_flight({true, index, task.kind}, static_cast<Endpoint>(index));
  flight.sent = start_.now;
  if (host != kServer) {
    task.memory_bytes = memory_bytes(experiment_.fleet->device(host));
    const std::int64_t bytes = costs_.bottom_bytes() + costs_.top_bytes();
    flight.sent = links_.send(kServer, start_.now, bytes);
    flight.download = links_.down_time(kServer, host, start_.version, bytes);
    cluster.server_bytes_down += bytes;
  }
  send(flight, kTopJob, task.encode(), start_.top);
}

/// The host has the features of all workers.
void Round::step_top(std::size_t index) {
  Cluster& cluster = clusters_[index];
  TopTask task{.kind = TopTask::Kind::step};
  Bytes features;
  for (const std::size_t i : cluster.workers) {
    Worker& worker = workers_[i];
    task.samples.push_back(worker.result.shape.front());
    task.shape.assign(worker.result.shape.begin() + 1, worker.result.shape.end());
    task.labels.insert(task.labels.end(), worker.result.labels.begin(), worker.result.labels.end());
    append(features, *std::exchange(worker.payload, nullptr));
  }
  if (parts_.step == TopStep::in_turn) {
    task.order.resize(cluster.workers.size());
    std::iota(task.order.begin(), task.order.end(), 0);
    if (parts_.random_turns) {
      Stream(experiment_.seed, kTurns, start_.version, static_cast<std::int64_t>(index),
             cluster.iterations)
          .shuffle(task.order);
    }
  }
  if (parts_.step == TopStep::mixup) {
    task.mixtures = mixtures_of(cluster.workers.size(), parts_.mixup_alpha,
                                Stream(experiment_.seed, kMixtures, start_.version,
                                       static_cast<std::int64_t>(index), cluster.iterations));
  }
  Flight flight = next_flight({true, index, task.kind}, static_cast<Endpoint>(index));
  flight.sent = cluster.ready;
  flight.flops = costs_.top_flops(task.samples);
  if (cluster.plan.host == kServer) {
    flight.compute = links_.processing_time(flight.flops);
    flight.download = links_.process(cluster.ready, flight.flops) - cluster.ready - flight.compute;
  } else {
    std::vector<Arrival> batches;
    for (const std::size_t i : cluster.workers) {
      batches.push_back({workers_[i].received, workers_[i].result.shape.front()});
    }
    flight.compute = costs_.top_done(device(cluster.plan.host), batches) - cluster.ready;
  }
  send(flight, kTopJob, task.encode(), to_shared(std::move(features)));
}

/// The host has the bottoms of all workers. A client that is the host takes their mean, and sends
/// the whole model to the server.
void Round::finish_top(std::size_t index) {
  Cluster& cluster = clusters_[index];
  const TopTask task{.kind = TopTask::Kind::finish};
  Flight flight = next_flight({true, index, task.kind}, static_cast<Endpoint>(index));
  flight.sent = cluster.ready;
  if (const Endpoint host = cluster.plan.host; host != kServer) {
    const std::int64_t bytes = costs_.bottom_bytes() + costs_.top_bytes();
    flight.flops = merge_flops(costs_.bottom_bytes()) * std::ssize(cluster.workers);
    flight.compute = compute_time(device(host), flight.flops);
    flight.upload = links_.up_time(kServer, host, start_.version, bytes);
    cluster.server_bytes_up += bytes;
  }
  send(flight, kTopJob, task.encode(), to_shared({}));
}

/// The host hands the payload to the link at `time`: the first weights, or a gradient.
void Round::send_bottom(std::size_t index, Nanoseconds time, SharedBytes payload) {
  Worker& worker = workers_[index];
  Cluster& cluster = clusters_[static_cast<std::size_t>(worker.cluster)];
  const Endpoint host = cluster.plan.host;
  const std::int64_t client = worker.plan.client;
  BottomTask task;
  task.begins = worker.iterations == 0 ? 1 : 0;
  task.goes_on = worker.iterations < cluster.plan.iterations ? 1 : 0;
  Flight flight = next_flight({false, index}, client);
  if (task.begins != 0) {
    task.version = start_.version;
    task.nth_task = start_.nth_task[static_cast<std::size_t>(client)];
    task.batch = worker.plan.batch;
    if (const auto state = start_.states.bottoms.find(client);
        state != start_.states.bottoms.end()) {
      task.optimizer = state->second;
    }
    worker.begun = time;
    flight.bytes_down = costs_.bottom_bytes();
  } else {
    const std::int64_t samples = costs_.batch_at(worker.plan, worker.iterations - 1);
    flight.flops += costs_.backward_flops(samples);
    flight.compute += costs_.backward_time(device(client), samples);
    flight.bytes_down = costs_.feature_bytes(samples);
  }
  if (task.goes_on != 0) {
    const std::int64_t samples = costs_.batch_at(worker.plan, worker.iterations++);
    worker.samples += samples;
    flight.flops += costs_.forward_flops(samples);
    flight.compute += costs_.forward_time(device(client), samples);
    flight.bytes_up = costs_.feature_bytes(samples) + costs_.label_bytes(samples);
  } else {
    flight.bytes_up = costs_.bottom_bytes();
  }
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
  send(flight, kBottomJob, task.encode(), std::move(payload));
}

// Answers ---------------------------------------------------------------------------------------

void Round::worker_done(std::size_t index, const Clock::Event& event) {
  const Flight& flight = event.flight;
  Worker& worker = workers_[index];
  const auto place = static_cast<std::size_t>(worker.cluster);
  Cluster& cluster = clusters_[place];
  worker.result = BottomResult::decode(*event.answer->head);
  worker.payload = event.answer->payload;
  worker.received = links_.receive(cluster.plan.host, flight.finish, flight.bytes_up);
  const Nanoseconds down = flight.leaves() + flight.download - worker.handed;
  const Nanoseconds up = worker.received - (flight.finish - flight.upload);
  worker.compute += flight.compute;
  worker.transfer += down + up;
  const bool is_first = cluster.iterations == 0;
  const bool is_last = cluster.iterations == cluster.plan.iterations;
  worker.model_transfer += (is_first ? down : 0) + (is_last ? up : 0);
  cluster.ready = std::max(cluster.ready, worker.received);
  if (--cluster.missing > 0) return;
  for (const std::size_t i : cluster.workers) {
    workers_[i].waiting += cluster.ready - workers_[i].received;
  }
  if (is_last) {
    finish_top(place);
  } else {
    step_top(place);
  }
}

void Round::top_done(std::size_t index, TopTask::Kind kind, const Clock::Event& event) {
  Cluster& cluster = clusters_[index];
  const Nanoseconds time = event.flight.finish;
  cluster.missing = std::ssize(cluster.workers);
  switch (kind) {
    case TopTask::Kind::begin:
      for (const std::size_t i : cluster.workers) send_bottom(i, time, start_.bottom);
      return;
    case TopTask::Kind::step:
      cluster.result = TopResult::decode(*event.answer->head);
      return_gradients(cluster, time, *event.answer->payload);
      return;
    case TopTask::Kind::finish:
      cluster.result = TopResult::decode(*event.answer->head);
      cluster.weights = event.answer->payload;
      end(cluster, time);
  }
}

void Round::return_gradients(Cluster& cluster, Nanoseconds time, const Bytes& gradients) {
  const Nanoseconds step = time - cluster.ready;
  cluster.top += step;
  Iteration iteration{.cluster = &cluster - clusters_.data(),
                      .iteration = ++cluster.iterations,
                      .received = cluster.ready,
                      .stepped = time};
  auto rest = std::span(gradients);
  for (std::size_t k = 0; k < cluster.workers.size(); ++k) {
    const std::size_t i = cluster.workers[k];
    Worker& worker = workers_[i];
    const std::int64_t samples = worker.result.shape.front();
    const auto size = static_cast<std::size_t>(costs_.feature_bytes(samples));
    worker.top += step;
    worker.loss_sum += cluster.result.loss_sums[k];
    iteration.samples += samples;
    iteration.loss_sum += cluster.result.loss_sums[k];
    const auto own = rest.first(size);
    rest = rest.subspan(size);
    send_bottom(i, time, to_shared(Bytes(own.begin(), own.end())));
  }
  iterations_.push_back(iteration);
}

/// The server has the cluster's model, or its bottoms and top, and adds them to the mean.
void Round::end(Cluster& cluster, Nanoseconds time) {
  const bool is_here = cluster.plan.host == kServer;
  const std::int64_t bottoms = is_here ? std::ssize(cluster.workers) : 1;
  const std::int64_t bytes = bottoms * costs_.bottom_bytes() + costs_.top_bytes();
  const Nanoseconds there = is_here ? time : links_.receive(kServer, time, bytes);
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
    double all = 0;
    for (const std::size_t i : cluster.workers) all += round.workers()[i].plan.weight;
    for (const std::size_t i : cluster.workers) {
      const Round::Worker& worker = round.workers()[i];
      add(parts.bottom, *worker.payload, cluster.plan.weight * (worker.plan.weight / all));
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
