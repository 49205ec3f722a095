#include "espalier/protocol/split/relay.h"

#include <numeric>
#include <utility>

#include "espalier/base/error.h"

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

constexpr Nanoseconds kWholeRound = 1'000'000'000;

void append(Bytes& all, std::span<const std::byte> more) {
  all.insert(all.end(), more.begin(), more.end());
}

/// Empty if there is none.
Bytes state_of(const std::map<std::int64_t, Bytes>& states, std::int64_t number) {
  const auto state = states.find(number);
  return state == states.end() ? Bytes() : state->second;
}

}  // namespace

Relay::Relay(const Experiment& experiment, const Parts& parts, const Costs& costs, Clock& clock,
             const std::vector<ClusterPlan>& clusters, const RoundStart& start)
    : experiment_(experiment),
      parts_(parts),
      costs_(costs),
      clock_(clock),
      start_(start),
      numbers_(clusters.size(), static_cast<std::size_t>(workers_of(clusters))) {
  for (const ClusterPlan& plan : clusters) {
    Cluster& cluster = clusters_.emplace_back(Cluster{.plan = &plan});
    for (const WorkerPlan& worker : plan.workers) {
      cluster.workers.push_back(workers_.size());
      workers_.push_back({.plan = worker, .cluster = clusters_.size() - 1});
    }
  }
}

void Relay::begin() {
  for (std::size_t index = 0; index < clusters_.size(); ++index) begin_top(index);
}

void Relay::take(Answer& answer) {
  const auto [party, turn] = numbers_.turn(answer.number);
  if (!party.is_top) {
    take_of_worker(party.index, answer);
    return;
  }
  Cluster& cluster = clusters_[party.index];
  if (turn > cluster.plan->iterations) return;  // the weights remain in the answer
  cluster.missing = std::ssize(cluster.workers);
  if (turn == 0) {
    for (const std::size_t worker : cluster.workers) prepare_bottom(worker, start_.bottom);
    return;
  }
  ++cluster.iteration;
  const SharedBytes message = std::exchange(answer.payload, nullptr);
  if (cluster.iteration < costs_.jobs(cluster.plan->iterations)) {
    pass_on(party.index, message);
  } else {
    finish_top(party.index);
  }
}

/// The last weights of bottoms remain in the answers.
void Relay::take_of_worker(std::size_t index, Answer& answer) {
  Worker& worker = workers_[index];
  Cluster& cluster = clusters_[worker.cluster];
  const bool has_ended = cluster.iteration == cluster.plan->iterations;
  if (!has_ended) {
    worker.result = BottomResult::decode(*answer.head);
    worker.payload = std::exchange(answer.payload, nullptr);
  }
  if (--cluster.missing > 0) return;
  if (has_ended) {
    finish_top(worker.cluster);
  } else {
    step_top(worker.cluster);
  }
}

/// Jobs of all clusters alternate, so that all rounds end at about the same time on the ranks.
void Relay::prepare(const Turn& turn, JobKind kind, Endpoint endpoint, Bytes head,
                    SharedBytes payload) {
  const Party& party = turn.party;
  const std::size_t cluster = party.is_top ? party.index : workers_[party.index].cluster;
  Job job{.kind = kind, .number = numbers_.number(turn), .endpoint = endpoint};
  job.due = kWholeRound * turn.turn / clusters_[cluster].plan->iterations;
  job.needs_resident = true;
  job.version = start_.version;
  job.head = to_shared(std::move(head));
  job.payload = std::move(payload);
  clock_.prepare(std::move(job));
}

void Relay::prepare_top(std::size_t index, TopTask task, SharedBytes payload) {
  const std::int64_t iteration = clusters_[index].iteration;
  const std::int64_t turn = task.kind == TopTask::Kind::begin ? 0 : iteration + 1;
  prepare({{true, index}, turn}, kTopJob, static_cast<Endpoint>(index), task.encode(),
          std::move(payload));
}

void Relay::begin_top(std::size_t index) {
  TopTask task;
  task.version = start_.version;
  if (start_.states != nullptr) {
    task.optimizer = state_of(start_.states->tops, static_cast<std::int64_t>(index));
  }
  if (const Endpoint host = clusters_[index].plan->host; host != kServer) {
    task.memory_bytes = memory_bytes(experiment_.fleet->device(host));
  }
  prepare_top(index, std::move(task), start_.top);
}

/// The host has the messages of all workers.
void Relay::step_top(std::size_t index) {
  const Cluster& cluster = clusters_[index];
  TopTask task{.kind = TopTask::Kind::step};
  std::size_t bytes = 0;
  for (const std::size_t i : cluster.workers) bytes += workers_[i].payload->size();
  Bytes messages;
  messages.reserve(bytes);  // may be many models
  for (const std::size_t i : cluster.workers) {
    append(messages, *std::exchange(workers_[i].payload, nullptr));
    task.weights.push_back(workers_[i].plan.weight);
  }
  if (has_features()) add_batches(index, task);
  prepare_top(index, std::move(task), to_shared(std::move(messages)));
}

/// What a top needs for its step beside the features.
void Relay::add_batches(std::size_t index, TopTask& task) const {
  const Cluster& cluster = clusters_[index];
  for (const std::size_t i : cluster.workers) {
    const auto& [plan, place, result, payload] = workers_[i];
    ESPALIER_CHECK(result.shape.front() == costs_.batch_at(plan, cluster.iteration),
                   "client {} has a batch of {} samples", plan.client, result.shape.front());
    task.samples.push_back(result.shape.front());
    task.shape.assign(result.shape.begin() + 1, result.shape.end());
    task.labels.insert(task.labels.end(), result.labels.begin(), result.labels.end());
  }
  const auto random = [&](Purpose purpose) {
    return Stream(experiment_.seed, purpose, start_.version, static_cast<std::int64_t>(index),
                  cluster.iteration);
  };
  if (parts_.step == TopStep::in_turn) {
    task.order.resize(cluster.workers.size());
    std::iota(task.order.begin(), task.order.end(), 0);
    if (parts_.random_turns) random(kTurns).shuffle(task.order);
  }
  if (parts_.step == TopStep::mixup) {
    task.mixtures = mixtures_of(cluster.workers.size(), parts_.mixup_alpha, random(kMixtures));
  }
}

void Relay::finish_top(std::size_t index) {
  prepare_top(index, {.kind = TopTask::Kind::finish}, to_shared({}));
}

/// The host's answer goes to its workers: to each its own gradient, or the mean to all.
void Relay::pass_on(std::size_t index, const SharedBytes& answer) {
  auto rest = std::span(*answer);
  for (const std::size_t i : clusters_[index].workers) {
    if (!has_features()) {
      prepare_bottom(i, answer);
      continue;
    }
    const auto size =
        static_cast<std::size_t>(costs_.feature_bytes(workers_[i].result.shape.front()));
    const auto own = rest.first(size);
    rest = rest.subspan(size);
    prepare_bottom(i, to_shared(Bytes(own.begin(), own.end())));
  }
}

void Relay::prepare_bottom(std::size_t index, SharedBytes payload) {
  const Worker& worker = workers_[index];
  const Cluster& cluster = clusters_[worker.cluster];
  const std::int64_t client = worker.plan.client;
  BottomTask task;
  task.begins = cluster.iteration == 0 ? 1 : 0;
  task.goes_on = cluster.iteration + 1 < costs_.jobs(cluster.plan->iterations) ? 1 : 0;
  if (task.begins != 0) {
    task.version = start_.version;
    task.nth_task = start_.nth_task[static_cast<std::size_t>(client)];
    task.batch = worker.plan.batch;
    if (start_.states != nullptr) task.optimizer = state_of(start_.states->bottoms, client);
  }
  prepare({{false, index}, cluster.iteration}, kBottomJob, client, task.encode(),
          std::move(payload));
}

}  // namespace espalier::split
