#include "espalier/protocol/rounds/pool.h"

#include <algorithm>

namespace espalier {
namespace {

SharedBytes share(Bytes bytes) { return std::make_shared<const Bytes>(std::move(bytes)); }

}  // namespace

Pool::Pool(Mailbox& mailbox, int ranks, Worker* local) : mailbox_(mailbox), local_(local) {
  if (local_ != nullptr) {
    ranks_.push_back(0);
  } else {
    for (int rank = 1; rank < ranks; ++rank) ranks_.push_back(rank);
  }
  expected_.assign(ranks_.size(), 0);
  payloads_.resize(ranks_.size());
}

/// The sub-type of a task message: whether the rank has the payload already, and where.
std::int32_t Pool::place_payload(std::size_t place, const SharedBytes& payload) {
  std::deque<SharedBytes>& kept = payloads_[place];
  const auto found = std::ranges::find(kept, payload);
  if (found != kept.end()) return static_cast<std::int32_t>(found - kept.begin()) + 1;
  kept.push_front(payload);
  if (kept.size() > kKeptPayloads) kept.pop_back();
  return 0;
}

std::int64_t Pool::submit(const ClientTask& task, SharedBytes payload, std::int64_t flops) {
  const auto place = static_cast<std::size_t>(std::min_element(expected_.begin(), expected_.end()) -
                                              expected_.begin());
  expected_[place] += flops;
  const int rank = ranks_[place];
  placed_[task.task] = {place, flops};
  Message message;
  message.type = MessageType::task;
  message.to = task.client;
  message.id = task.task;
  message.head = share(task.encode());
  const auto bytes =
      static_cast<std::int64_t>(message.head->size() - task.state.size() + payload->size());
  message.subtype = place_payload(place, payload);
  if (message.subtype == 0) message.payload = std::move(payload);
  mailbox_.expect(rank, bytes + 4096);
  mailbox_.send(rank, std::move(message));
  return bytes;
}

Pool::Arrival Pool::collect(std::int64_t task) {
  wait_until([&] { return arrived_.contains(task); });
  auto node = arrived_.extract(task);
  return std::move(node.mapped());
}

void Pool::evaluate(std::int64_t version, ShardKind kind, std::int64_t batches, SharedBytes model) {
  const auto ranks = static_cast<std::int64_t>(ranks_.size());
  for (std::int64_t i = 0; i < ranks; ++i) {
    const Shard shard{version, batches * i / ranks, batches * (i + 1) / ranks};
    if (shard.first == shard.last) continue;
    Message message;
    message.type = MessageType::evaluate;
    message.subtype = static_cast<std::int32_t>(kind);
    message.id = version;
    message.head = share(shard.encode());
    message.payload = model;
    mailbox_.send(ranks_[static_cast<std::size_t>(i)], std::move(message));
  }
}

void Pool::handle(Message message) {
  switch (message.type) {
    case MessageType::update: {
      Arrival arrival;
      arrival.result = ClientResult::decode(*message.head);
      arrival.values = message.payload;
      arrival.head_bytes =
          static_cast<std::int64_t>(message.head->size() - arrival.result.state.size());
      arrival.rank = message.rank;
      const auto placed = placed_.extract(arrival.result.task);
      if (placed.empty()) {
        ++duplicates_;
        return;
      }
      expected_[placed.mapped().place] -= placed.mapped().flops;
      arrived_.emplace(arrival.result.task, std::move(arrival));
      return;
    }
    case MessageType::evaluation:
      handler_(Shard::decode(*message.head), static_cast<ShardKind>(message.subtype),
               message.payload);
      return;
    case MessageType::stop:
      ++stopped_;
      return;
    default:  // alone, the server's rank gets its own clients' messages as well
      ESPALIER_CHECK(local_ != nullptr, "the server got message type {}",
                     static_cast<int>(message.type));
      local_->accept(std::move(message));
  }
}

bool Pool::progress() {
  bool any = false;
  while (auto message = mailbox_.receive()) {
    handle(std::move(*message));
    any = true;
  }
  return any;
}

void Pool::poll() { progress(); }

void Pool::wait_until(const std::function<bool()>& done) {
  while (!done()) {
    if (progress()) continue;
    if (local_ == nullptr || !local_->step()) mailbox_.wait();
  }
}

void Pool::stop() {
  if (local_ != nullptr) return;
  for (int rank : ranks_) {
    Message message;
    message.type = MessageType::stop;
    message.head = share({});
    message.payload = share({});
    mailbox_.send(rank, std::move(message));
  }
  // A worker's answer is its last message: with all of them here, nothing is under way any more.
  wait_until([&] { return stopped_ == static_cast<int>(ranks_.size()); });
}

}  // namespace espalier
