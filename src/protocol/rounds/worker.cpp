#include "espalier/protocol/rounds/worker.h"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace espalier {
namespace {

SharedBytes share(Bytes bytes) { return std::make_shared<const Bytes>(std::move(bytes)); }

template <class T>
SharedBytes share_values(const std::vector<T>& values) {
  Bytes bytes(values.size() * sizeof(T));
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
  return archive.take();
}

Shard Shard::decode(std::span<const std::byte> bytes) {
  ByteArchive archive(bytes);
  Shard shard;
  archive.value("version", shard.version);
  archive.value("first", shard.first);
  archive.value("last", shard.last);
  return shard;
}

Worker::Worker(const Experiment& experiment, const Config& config, ObjectiveFactory objective,
               Mailbox& mailbox)
    : experiment_(experiment),
      config_(config),
      objective_(std::move(objective)),
      mailbox_(mailbox),
      evaluation_plan_(evaluation_plan(config, experiment)) {}

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
  const auto message_bytes =
      static_cast<std::int64_t>(message.head->size() - task.state.size() + message.payload->size());
  auto stepper = std::make_unique<ClientStepper>(experiment_, objective_, config_, std::move(task),
                                                 message_bytes, message.payload);
  const auto urgency = [](const std::unique_ptr<ClientStepper>& s) {
    return std::make_tuple(s->task().finish, s->task().client, s->task().task);
  };
  // The task under way keeps its place: two half-trained models at once would only cost memory.
  const auto from = tasks_.empty() ? tasks_.begin() : tasks_.begin() + 1;
  const auto place =
      std::upper_bound(from, tasks_.end(), stepper,
                       [&](const auto& a, const auto& b) { return urgency(a) < urgency(b); });
  tasks_.insert(place, std::move(stepper));
}

void Worker::accept_shard(const Message& message) {
  Evaluation evaluation{Shard::decode(*message.head),
                        static_cast<ShardKind>(message.subtype),
                        nullptr,
                        message.id,
                        0,
                        {},
                        {}};
  evaluation.next = evaluation.shard.first;
  const auto full = Submodel::full(*experiment_.model.layout);
  auto dense = experiment_.plans->geometry(full, Packing::dense);
  auto aligned = experiment_.plans->geometry(full, Packing::aligned);
  evaluation.model = std::make_shared<Parameters>(aligned);
  experiment_.plans->plan(*dense, *aligned)
      ->copy(reinterpret_cast<const float*>(message.payload->data()), evaluation.model->data());
  shards_.push_back(std::move(evaluation));
}

bool Worker::step() {
  // Shards wait for idle moments, but not for ever: one that is two versions late goes first.
  const bool late = !shards_.empty() && shards_.front().shard.version + 1 < latest_base_;
  if (late) return step_shard();
  return step_task() || step_shard();
}

bool Worker::step_task() {
  if (tasks_.empty()) return false;
  ClientStepper& stepper = *tasks_.front();
  if (stepper.step()) return true;
  auto [result, values] = stepper.finish();
  Message message;
  message.type = MessageType::update;
  message.from = stepper.task().client;
  message.to = kServer;
  message.id = result.task;
  message.head = share(result.encode());
  message.payload = values;
  if (stepper.task().answers_twice) mailbox_.send(0, message);
  mailbox_.send(0, std::move(message));
  tasks_.erase(tasks_.begin());
  return true;
}

bool Worker::step_shard() {
  if (shards_.empty()) return false;
  Evaluation& e = shards_.front();
  if (e.next < e.shard.last) {
    if (e.kind == ShardKind::evaluate) {
      const EvaluationSums sums = evaluate_batch(experiment_, evaluation_plan_, *e.model, e.next);
      e.sums.insert(e.sums.end(), {static_cast<double>(sums.samples), sums.loss,
                                   static_cast<double>(sums.top1), static_cast<double>(sums.top5)});
    } else {
      const auto values = calibrate_batch(experiment_, evaluation_plan_, *e.model, e.next);
      e.statistics.insert(e.statistics.end(), values.begin(), values.end());
    }
    ++e.next;
  }
  if (e.next < e.shard.last) return true;
  Message message;
  message.type = MessageType::evaluation;
  message.subtype = static_cast<std::int32_t>(e.kind);
  message.id = e.id;
  message.head = share(e.shard.encode());
  message.payload =
      e.kind == ShardKind::evaluate ? share_values(e.sums) : share_values(e.statistics);
  mailbox_.send(0, std::move(message));
  shards_.pop_front();
  return true;
}

void Worker::run() {
  while (!stopped_) {
    while (auto message = mailbox_.receive()) accept(std::move(*message));
    if (stopped_) break;
    if (!step()) mailbox_.wait();
  }
  Message farewell;
  farewell.type = MessageType::stop;
  farewell.head = share({});
  farewell.payload = share({});
  mailbox_.send(0, std::move(farewell));
  while (!mailbox_.idle()) mailbox_.wait();
}

}  // namespace espalier
