#include "espalier/engine/worker.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/log.h"

namespace espalier {
namespace {

/// Returns work(), and adds the seconds that it took to `sum_s`.
template <class Work>
auto timed(double& sum_s, const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  auto result = work();
  sum_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace

Worker::Worker(const JobKinds& kinds, Mailbox& mailbox, const RealTime* real_time)
    : kinds_(kinds), mailbox_(mailbox), real_time_(real_time) {}

/// The payload of a job's message, which may be one that came with an earlier message.
SharedBytes Worker::kept_payload(const Message& message, std::int64_t version) {
  const std::int64_t place = payload_place_of(message);
  if (place > 0) return payloads_.at(static_cast<std::size_t>(place - 1)).payload;
  if (place == kPayloadKept) keep_payload(payloads_, {version, message.payload});
  return message.payload;
}

void Worker::accept(const Message& message) {
  Job job = job_of(message);
  job.payload = kept_payload(message, job.version);
  Work work{job, kinds_.make(std::move(job))};
  work.job.head = work.job.payload = nullptr;
  if (work.job.urgency != Urgency::normal) {
    const bool is_first = work.job.urgency == Urgency::first;
    unpaced_.insert(is_first ? unpaced_.begin() : unpaced_.end(), std::move(work));
    return;
  }
  latest_version_ = std::max(latest_version_, work.job.version);
  const auto order = [](const Work& w) {
    return std::make_tuple(w.job.due, w.job.endpoint, w.job.number);
  };
  // The started job stays first: two half-trained models at once would only cost memory.
  const auto from = jobs_.empty() ? jobs_.begin() : jobs_.begin() + 1;
  const auto place = std::upper_bound(
      from, jobs_.end(), work, [&](const Work& a, const Work& b) { return order(a) < order(b); });
  jobs_.insert(place, std::move(work));
}

bool Worker::step() {
  const auto is_first = [this](const Job& job) {
    return job.urgency == Urgency::first || job.version + 1 < latest_version_;
  };
  if (!unpaced_.empty() && is_first(unpaced_.front().job)) return step_unpaced();
  return step_job() || step_unpaced();
}

namespace {

/// Time at which the next step begins in a paced run. An answer is sent as soon as it is computed,
/// because the server holds it until its time.
Nanoseconds due(const Job& job, const Stepper& stepper) {
  const std::int64_t done = stepper.steps_done();
  if (done == stepper.steps()) return std::numeric_limits<Nanoseconds>::min();
  const double fraction = static_cast<double>(done) / static_cast<double>(stepper.steps());
  return job.pace->begin + std::llround(static_cast<double>(job.pace->length) * fraction);
}

}  // namespace

Worker::Place Worker::most_urgent() {
  if (real_time_ == nullptr || jobs_.empty()) return jobs_.begin();
  const auto time = [](const Work& work) { return due(work.job, *work.stepper); };
  const auto first = std::ranges::min_element(jobs_, {}, time);
  return time(*first) <= real_time_->now() ? first : jobs_.end();
}

std::chrono::nanoseconds Worker::patience() const {
  auto shortest = std::chrono::nanoseconds::max();
  if (real_time_ == nullptr) return shortest;
  for (const Work& work : jobs_) {
    shortest = std::min(shortest, real_time_->until(due(work.job, *work.stepper)));
  }
  return shortest;
}

bool Worker::advance(Work& work) {
  const std::int64_t done = work.stepper->steps_done();
  const double before_s = work.host_s;
  const bool has_more = timed(work.host_s, [&] { return work.stepper->step(); });
  const bool is_paced = work.job.pace && work.stepper->steps_done() > done;
  if (has_more && is_paced) watch(work, work.host_s - before_s);
  return has_more;
}

/// Warns once if the steps that are due on this rank at the same time take longer than their pace
/// allows. The time of a first step is not used, because it includes allocations, and one step
/// alone is not enough.
void Worker::watch(Work& work, double step_s) {
  const bool first = work.stepper->steps_done() == 1 && work.stepper->steps() > 1;
  if (std::exchange(has_stepped_, true) && !first) {
    work.step_s = std::min(work.step_s, step_s);
    ++work.measured;
  }
  if (warned_) return;
  constexpr std::int64_t kEnough = 3;
  // A job that the device does in no time (a mean, a server without a rate) says nothing about
  // load.
  constexpr double kShortest = 1e-3;  // emulated seconds
  double load = 0;                    // needed host time over available time
  std::int64_t clients = 0;
  for (const Work& other : jobs_) {
    const std::int64_t enough = std::clamp<std::int64_t>(other.stepper->steps() - 1, 1, kEnough);
    if (other.measured < enough) continue;
    const double length_s = seconds(other.job.pace->length);
    if (length_s < kShortest) continue;
    load += other.step_s * static_cast<double>(other.stepper->steps()) /
            (length_s * real_time_->scale());
    ++clients;
  }
  if (load <= 1) return;
  warned_ = true;
  const std::string text = formatted(
      "rank {} cannot keep the pace: the batches of {} client{} that train there at the same time "
      "need {:.3g} times its computing power, so they end late; "
      "set clock.scale to at least {:.3g}, or use more ranks on more cores",
      message_rank(), clients, clients == 1 ? "" : "s", load, load * real_time_->scale());
  Message message;
  message.type = MessageType::warning;
  message.to = kServer;
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  message.head = to_shared(Bytes(bytes, bytes + text.size()));
  mailbox_.send(0, std::move(message));
}

void Worker::answer(Work& work) {
  const Stepper::Output output = timed(work.host_s, [&] { return work.stepper->finish(); });
  Answer answer;
  answer.kind = work.job.kind;
  answer.number = work.job.number;
  answer.endpoint = work.job.endpoint;
  answer.head = output.head;
  answer.payload = output.payload;
  answer.host_s = work.host_s;
  if (work.job.pace) answer.computed = real_time_->now();
  if (output.is_sent_twice) mailbox_.send(0, message_of(answer));
  mailbox_.send(0, message_of(answer));
}

bool Worker::step_job() {
  const Place place = most_urgent();
  if (place == jobs_.end()) return false;
  if (advance(*place)) return true;
  answer(*place);
  jobs_.erase(place);
  return true;
}

bool Worker::step_unpaced() {
  if (unpaced_.empty()) return false;
  if (advance(unpaced_.front())) return true;
  answer(unpaced_.front());
  unpaced_.pop_front();
  return true;
}

void Worker::run() {
  bool stopped = false;
  while (!stopped) {
    while (auto message = mailbox_.receive()) {
      if (message->type == MessageType::stop) {
        stopped = true;
        continue;
      }
      ESPALIER_CHECK(message->type == MessageType::job, "a worker got message type {}",
                     static_cast<int>(message->type));
      accept(*message);
    }
    if (!stopped && !step()) mailbox_.wait(patience());
  }
  Message farewell;
  farewell.type = MessageType::stop;
  farewell.head = to_shared({});
  farewell.payload = to_shared({});
  mailbox_.send(0, std::move(farewell));
  while (!mailbox_.idle()) mailbox_.wait();
}

}  // namespace espalier
