#include "espalier/engine/pool.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/log.h"

namespace espalier {
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

/// The place of the job's payload on the rank (job.h). A payload that the rank lacks becomes its
/// newest.
std::int64_t Pool::place_payload(std::size_t place, const Job& job) {
  std::deque<KeptPayload>& kept = payloads_[place];
  const auto found = std::ranges::find_if(kept, [&](const KeptPayload& k) {
    return !k.payload.owner_before(job.payload) && !job.payload.owner_before(k.payload);
  });
  if (found != kept.end()) return found - kept.begin() + 1;
  keep_payload(kept, {job.version, job.payload});
  return kPayloadKept;
}

void Pool::on_answer(JobKind kind, AnswerHandler handler) {
  if (handler) {
    handlers_[kind] = std::move(handler);
  } else {
    handlers_.erase(kind);
  }
}

void Pool::submit(Job job, std::int64_t work) {
  if (job.needs_resident) {
    send(static_cast<std::size_t>(home(job.endpoint)), job, work);
    return;
  }
  const Order order{job.due, job.endpoint, job.number};
  waiting_.emplace(order, Waiting{std::move(job), work});
  hand_out();
}

void Pool::submit_to(std::int64_t place, const Job& job) {
  mailbox_.send(ranks_.at(static_cast<std::size_t>(place)), message_of(job, kPayloadNotKept));
}

/// Sends waiting jobs, each to the rank with the least outstanding work (ties: the lowest rank) of
/// those that have room. A rank has room for two jobs, or for half of an equal fraction of the
/// waiting jobs if that is more (guided self-scheduling: Polychronopoulos and Kuck, IEEE
/// Transactions on Computers 36(12), 1987), so that short jobs do not wait for the server.
void Pool::hand_out() {
  while (!waiting_.empty()) {
    const auto room =
        static_cast<std::int64_t>(std::max<std::size_t>(2, waiting_.size() / (2 * ranks_.size())));
    std::optional<std::size_t> place;
    for (std::size_t i = 0; i < loads_.size(); ++i) {
      const bool has_room = real_time_ || loads_[i].jobs < room;
      if (has_room && (!place || loads_[i].work < loads_[*place].work)) place = i;
    }
    if (!place) return;
    const auto [job, work] = std::move(waiting_.begin()->second);
    waiting_.erase(waiting_.begin());
    send(*place, job, work);
  }
}

void Pool::send(std::size_t place, const Job& job, std::int64_t work) {
  ++loads_[place].jobs;
  loads_[place].work += work;
  placed_[job.number] = {place, work, job.needs_resident};
  resident_jobs_ += job.needs_resident ? 1 : 0;
  constexpr std::size_t kAnswerHead = 4096;
  const int rank = ranks_[place];
  mailbox_.expect(rank,
                  static_cast<std::int64_t>(job.head->size() + job.payload->size() + kAnswerHead));
  mailbox_.send(rank, message_of(job, place_payload(place, job)));
}

Answer Pool::collect(std::int64_t number) {
  await(number);
  return std::move(arrived_.extract(number).mapped());
}

const Answer& Pool::await(std::int64_t number) {
  wait_until([&] { return arrived_.contains(number); });
  return arrived_.at(number);
}

std::optional<Answer> Pool::take() {
  if (arrived_.empty()) return std::nullopt;
  return std::move(arrived_.extract(arrived_.begin()).mapped());
}

/// A second answer to a job has no effect.
void Pool::take_answer(Answer answer) {
  if (const auto handler = handlers_.find(answer.kind); handler != handlers_.end()) {
    handler->second(answer);
    return;
  }
  const auto placed = placed_.extract(answer.number);
  if (placed.empty()) return;
  Load& load = loads_[placed.mapped().place];
  --load.jobs;
  load.work -= placed.mapped().work;
  resident_jobs_ -= placed.mapped().needs_resident ? 1 : 0;
  const auto [arrived, is_new] = arrived_.emplace(answer.number, std::move(answer));
  if (arrival_) arrival_(arrived->second);
  hand_out();
}

void Pool::handle(Message message) {
  switch (message.type) {
    case MessageType::answer:
      take_answer(answer_of(message));
      return;
    case MessageType::stop:
      ++stopped_;
      return;
    case MessageType::warning:
      log_warning(
          std::string(reinterpret_cast<const char*>(message.head->data()), message.head->size()));
      return;
    case MessageType::job:  // to the worker of the only rank
      ESPALIER_CHECK(local_ != nullptr, "the server got a job of number {}", message.id);
      local_->accept(message);
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
    message.head = to_shared({});
    message.payload = to_shared({});
    mailbox_.send(rank, std::move(message));
  }
  // A worker's stop message is its last one: once all have arrived, no message is outstanding.
  wait_until([&] { return stopped_ == static_cast<int>(ranks_.size()); });
}

}  // namespace espalier
