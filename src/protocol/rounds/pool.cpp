#include "espalier/protocol/rounds/pool.h"

#include <algorithm>

#include "espalier/base/log.h"

namespace espalier {
namespace {

SharedBytes share(Bytes bytes) { return std::make_shared<const Bytes>(std::move(bytes)); }

}  // namespace

Pool::Pool(Mailbox& mailbox, int ranks, Worker* local, bool real_time)
    : mailbox_(mailbox), local_(local), real_time_(real_time) {
  if (local_ != nullptr) {
    ranks_.push_back(0);
  } else {
    for (int rank = 1; rank < ranks; ++rank) ranks_.push_back(rank);
  }
  loads_.resize(ranks_.size());
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

void Pool::submit(const ClientTask& task, SharedBytes payload, std::int64_t work) {
  Message message;
  message.type = MessageType::task;
  message.to = task.client;
  message.id = task.task;
  message.head = share(task.encode());
  message.payload = std::move(payload);
  waiting_.emplace(Urgency{task.finish, task.client, task.task}, Waiting{std::move(message), work});
  hand_out();
}

/// Sends waiting tasks, each to the rank with the least outstanding work (ties to the lowest) of
/// those that have room. A rank has room for one task beyond that under way, and for more while so
/// many wait that half of an equal share is more (guided self-scheduling: Polychronopoulos and
/// Kuck, IEEE Transactions on Computers 36(12), 1987), so that short tasks do not wait for the
/// server.
void Pool::hand_out() {
  while (!waiting_.empty()) {
    const auto room =
        static_cast<std::int64_t>(std::max<std::size_t>(2, waiting_.size() / (2 * ranks_.size())));
    std::optional<std::size_t> place;
    for (std::size_t i = 0; i < loads_.size(); ++i) {
      const bool has_room = real_time_ || loads_[i].tasks < room;
      if (has_room && (!place || loads_[i].work < loads_[*place].work)) place = i;
    }
    if (!place) return;
    auto [message, work] = std::move(waiting_.begin()->second);
    waiting_.erase(waiting_.begin());
    ++loads_[*place].tasks;
    loads_[*place].work += work;
    placed_[message.id] = {*place, work};
    constexpr std::size_t kAnswerHead = 4096;
    const int rank = ranks_[*place];
    mailbox_.expect(rank, static_cast<std::int64_t>(message.head->size() + message.payload->size() +
                                                    kAnswerHead));
    message.subtype = place_payload(*place, message.payload);
    if (message.subtype != 0) message.payload = nullptr;
    mailbox_.send(rank, std::move(message));
  }
}

Pool::Arrival Pool::collect(std::int64_t task) {
  await(task);
  return std::move(arrived_.extract(task).mapped());
}

const Pool::Arrival& Pool::await(std::int64_t task) {
  wait_until([&] { return arrived_.contains(task); });
  return arrived_.at(task);
}

std::optional<Pool::Arrival> Pool::take() {
  if (arrived_.empty()) return std::nullopt;
  return std::move(arrived_.extract(arrived_.begin()).mapped());
}

void Pool::evaluate(std::int64_t version, ShardKind kind, std::int64_t batches, SharedBytes model,
                    bool urgent) {
  const auto ranks = static_cast<std::int64_t>(ranks_.size());
  for (std::int64_t i = 0; i < ranks; ++i) {
    const Shard shard{version, batches * i / ranks, batches * (i + 1) / ranks, urgent};
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
      arrival.client = message.from;
      arrival.rank = message.rank;
      arrival.received = std::chrono::steady_clock::now();
      const auto placed = placed_.extract(arrival.result.task);
      if (placed.empty()) {
        ++duplicates_;
        return;
      }
      Load& load = loads_[placed.mapped().place];
      --load.tasks;
      load.work -= placed.mapped().work;
      arrived_.emplace(arrival.result.task, std::move(arrival));
      hand_out();
      return;
    }
    case MessageType::evaluation:
      handler_(Shard::decode(*message.head), static_cast<ShardKind>(message.subtype),
               message.payload);
      return;
    case MessageType::stop:
      ++stopped_;
      return;
    case MessageType::warning:
      log_warning(
          std::string(reinterpret_cast<const char*>(message.head->data()), message.head->size()));
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

void Pool::wait_until(const std::function<bool()>& done, const Patience& patience) {
  while (!done()) {
    if (interrupt_ && interrupt_()) throw Interrupted{};
    if (progress()) continue;
    if (local_ != nullptr && local_->step()) continue;
    auto at_most = local_ != nullptr ? local_->patience() : std::chrono::nanoseconds::max();
    if (patience) at_most = std::min(at_most, patience());
    mailbox_.wait(at_most);
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
