#include "espalier/protocol/rounds/worker.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "espalier/base/kill_point.h"

namespace espalier {
namespace {

SharedBytes share(Bytes bytes) { return std::make_shared<const Bytes>(std::move(bytes)); }

SharedBytes share_values(const std::vector<double>& values) {
  Bytes bytes(values.size() * sizeof(double));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return share(std::move(bytes));
}

}  // namespace

Bytes Shard::encode() const {
  ByteArchive archive;
  Shard copy = *this;
  archive.value("version", copy.version);
  archive.value("first", copy.first);
  archive.value("last", copy.last);
  archive_flags(archive, "urgent", {&copy.urgent});
  return archive.take();
}

Shard Shard::decode(std::span<const std::byte> bytes) {
  ByteArchive archive(bytes);
  Shard shard;
  archive.value("version", shard.version);
  archive.value("first", shard.first);
  archive.value("last", shard.last);
  archive_flags(archive, "urgent", {&shard.urgent});
  return shard;
}

Worker::Worker(const Experiment& experiment, const Config& config, ClientRules rules,
               Mailbox& mailbox, const RealTime* real_time)
    : experiment_(experiment),
      config_(config),
      rules_(std::move(rules)),
      mailbox_(mailbox),
      evaluation_plan_(evaluation_plan(config, experiment)),
      real_time_(real_time) {}

void Worker::accept(Message message) {
  switch (message.type) {
    case MessageType::task:
      accept_task(std::move(message));
      return;
    case MessageType::evaluate:
      accept_shard(message);
      return;
    case MessageType::stop:
      stopped_ = true;
      return;
    default:
      ESPALIER_CHECK(false, "a worker got message type {}", static_cast<int>(message.type));
  }
}

void Worker::accept_task(Message message) {
  if (message.subtype == 0) {
    payloads_.push_front(message.payload);
    if (payloads_.size() > kKeptPayloads) payloads_.pop_back();
  } else {
    message.payload = payloads_.at(static_cast<std::size_t>(message.subtype - 1));
  }
  ClientTask task = ClientTask::decode(*experiment_.model.layout, *message.head);
  latest_base_ = std::max(latest_base_, task.base_version);
  const std::int64_t message_bytes =
      task.description_bytes(static_cast<std::int64_t>(message.head->size())) +
      static_cast<std::int64_t>(message.payload->size());
  Work work{std::make_unique<ClientStepper>(experiment_, rules_, config_, std::move(task),
                                            message_bytes, message.payload)};
  const auto urgency = [](const Work& w) {
    const ClientTask& of = w.stepper->task();
    return std::make_tuple(of.finish, of.client, of.task);
  };
  // The task under way keeps its place: two half-trained models at once would only cost memory.
  const auto from = tasks_.empty() ? tasks_.begin() : tasks_.begin() + 1;
  const auto place = std::upper_bound(from, tasks_.end(), work, [&](const Work& a, const Work& b) {
    return urgency(a) < urgency(b);
  });
  tasks_.insert(place, std::move(work));
}

void Worker::accept_shard(const Message& message) {
  Evaluation evaluation{Shard::decode(*message.head),
                        static_cast<ShardKind>(message.subtype),
                        nullptr,
                        message.id,
                        0,
                        {}};
  evaluation.next = evaluation.shard.first;
  const auto full = Submodel::full(*experiment_.model.layout);
  auto dense = experiment_.plans->geometry(full, Packing::dense);
  auto aligned = experiment_.plans->geometry(full, Packing::aligned);
  evaluation.model = std::make_shared<Parameters>(aligned);
  experiment_.plans->plan(*dense, *aligned)
      ->copy(reinterpret_cast<const float*>(message.payload->data()), evaluation.model->data());
  const bool urgent = evaluation.shard.urgent;
  shards_.insert(urgent ? shards_.begin() : shards_.end(), std::move(evaluation));
}

bool Worker::step() {
  // Shards wait for idle moments, but not for ever: one that is two versions late goes first.
  const auto goes_first = [this](const Shard& shard) {
    return shard.urgent || shard.version + 1 < latest_base_;
  };
  if (!shards_.empty() && goes_first(shards_.front().shard)) return step_shard();
  return step_task() || step_shard();
}

namespace {

/// When the next batch is to begin in real time. An update leaves as soon as it is there, for the
/// server holds it until its time.
Nanoseconds due(const ClientStepper& stepper) {
  const std::int64_t done = stepper.steps_done();
  if (done == stepper.steps()) return std::numeric_limits<Nanoseconds>::min();
  const Pace& pace = *stepper.task().pace;
  const double share = static_cast<double>(done) / static_cast<double>(stepper.steps());
  return pace.begin + std::llround(static_cast<double>(pace.length) * share);
}

}  // namespace

Worker::Place Worker::most_urgent() {
  if (real_time_ == nullptr || tasks_.empty()) return tasks_.begin();
  const auto first =
      std::ranges::min_element(tasks_, {}, [](const Work& work) { return due(*work.stepper); });
  return due(*first->stepper) <= real_time_->now() ? first : tasks_.end();
}

std::chrono::nanoseconds Worker::patience() const {
  auto shortest = std::chrono::nanoseconds::max();
  if (real_time_ == nullptr) return shortest;
  for (const Work& work : tasks_) {
    shortest = std::min(shortest, real_time_->until(due(*work.stepper)));
  }
  return shortest;
}

bool Worker::train(Work& work) {
  kill_point("client.step");
  if (real_time_ == nullptr) return work.stepper->step();
  const auto begin = std::chrono::steady_clock::now();
  const std::int64_t done = work.stepper->steps_done();
  if (!work.stepper->step()) return false;
  if (work.stepper->steps_done() == done) return true;  // a batch of its local test
  watch(work, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return true;
}

/// Warns once if the batches that are to be trained here at the same time take longer than there
/// is. What a first batch takes says nothing, for it also sets things up, and a single one little.
void Worker::watch(Work& work, double step_s) {
  const bool first = work.stepper->steps_done() == 1 && work.stepper->steps() > 1;
  if (std::exchange(warm_, true) && !first) {
    work.step_s = std::min(work.step_s, step_s);
    ++work.measured;
  }
  if (warned_) return;
  constexpr std::int64_t kEnough = 3;
  double asked = 0;  // of the host's time, as a share
  std::int64_t clients = 0;
  for (const Work& other : tasks_) {
    const std::int64_t enough = std::clamp<std::int64_t>(other.stepper->steps() - 1, 1, kEnough);
    if (other.measured < enough) continue;
    const Nanoseconds length = std::max<Nanoseconds>(1, other.stepper->task().pace->length);
    asked += other.step_s * static_cast<double>(other.stepper->steps()) /
             (seconds(length) * real_time_->scale());
    ++clients;
  }
  if (asked <= 1) return;
  warned_ = true;
  const std::string text = formatted(
      "rank {} cannot keep the pace: the batches of {} client{} that train there at the same time "
      "ask for {:.3g} times the computing that it can give, so they end late (behind_s in /tasks); "
      "set clock.scale to at least {:.3g}, or use more ranks on more cores",
      message_rank(), clients, clients == 1 ? "" : "s", asked, asked * real_time_->scale());
  Message message;
  message.type = MessageType::warning;
  message.to = kServer;
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  message.head = share(Bytes(bytes, bytes + text.size()));
  mailbox_.send(0, std::move(message));
}

bool Worker::step_task() {
  const Place place = most_urgent();
  if (place == tasks_.end()) return false;
  if (train(*place)) return true;
  ClientStepper& stepper = *place->stepper;
  auto [result, values] = stepper.finish();
  if (real_time_ != nullptr) result.computed = real_time_->now();
  Message message;
  message.type = MessageType::update;
  message.from = stepper.task().client;
  message.to = kServer;
  message.id = result.task;
  message.head = share(result.encode());
  message.payload = values;
  if (stepper.task().answers_twice) mailbox_.send(0, message);
  mailbox_.send(0, std::move(message));
  tasks_.erase(place);
  return true;
}

bool Worker::step_shard() {
  if (shards_.empty()) return false;
  Evaluation& e = shards_.front();
  kill_point("evaluation.batch");
  if (e.next < e.shard.last) {
    if (e.kind == ShardKind::evaluate) {
      for (const EvaluationSums& sums :
           evaluate_batch(experiment_, evaluation_plan_, *e.model, e.next)) {
        e.results.insert(e.results.end(),
                         {static_cast<double>(sums.samples), sums.loss,
                          static_cast<double>(sums.top1), static_cast<double>(sums.top5)});
      }
    } else {
      const auto values = calibrate_batch(experiment_, evaluation_plan_, *e.model, e.next);
      e.results.insert(e.results.end(), values.begin(), values.end());
    }
    ++e.next;
  }
  if (e.next < e.shard.last) return true;
  Message message;
  message.type = MessageType::evaluation;
  message.subtype = static_cast<std::int32_t>(e.kind);
  message.id = e.id;
  message.head = share(e.shard.encode());
  message.payload = share_values(e.results);
  mailbox_.send(0, std::move(message));
  shards_.pop_front();
  return true;
}

void Worker::run() {
  while (!stopped_) {
    while (auto message = mailbox_.receive()) accept(std::move(*message));
    if (!stopped_ && !step()) mailbox_.wait(patience());
  }
  Message farewell;
  farewell.type = MessageType::stop;
  farewell.head = share({});
  farewell.payload = share({});
  mailbox_.send(0, std::move(farewell));
  while (!mailbox_.idle()) mailbox_.wait();
}

}  // namespace espalier
