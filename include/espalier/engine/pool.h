#pragma once
// The server's view of the ranks that do client work: it sends jobs and collects their answers. No
// result depends on the rank of a job. A rank gets a few jobs in advance. The rest wait here in the
// order in which their answers will be needed, so that slower ranks get fewer of them and all ranks
// end at about the same time. In a paced run no job can wait: each is sent to a rank at once.

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "espalier/engine/job.h"
#include "espalier/engine/worker.h"

namespace espalier {

class Pool {
 public:
  using AnswerHandler = std::function<void(const Answer&)>;
  using Patience = std::function<std::chrono::nanoseconds()>;
  /// Thrown out of an interrupted wait.
  struct Interrupted {};

  /// `local`: the worker on this rank if it is the only rank, else null. `real_time`: whether the
  /// run is paced.
  Pool(Mailbox& mailbox, int ranks, Worker* local, bool real_time);

  /// Queues a job for the rank that first has room for it. A job that needs a resident is sent to
  /// the resident's rank at once. `work` is balanced over the ranks: operations or, in a paced run,
  /// operations per second.
  void submit(Job job, std::int64_t work);
  /// Waits for the job's answer, while all other work continues, and returns it.
  Answer collect(std::int64_t number);
  /// The same, but the answer remains to be collected.
  const Answer& await(std::int64_t number);
  /// Called with each answer that will be collected when it arrives. It may change the answer, and
  /// submit jobs. An empty handler removes the present one.
  void on_arrival(std::function<void(Answer&)> handler) { arrival_ = std::move(handler); }
  /// Any answer that has arrived.
  std::optional<Answer> take();

  /// Sends a job at once to the rank with index `place`, below places(). The handler of its kind
  /// gets the answer.
  void submit_to(std::int64_t place, const Job& job);
  /// Index of the rank that has the residents of an endpoint.
  std::int64_t home(Endpoint endpoint) const { return endpoint % places(); }
  std::int64_t places() const { return static_cast<std::int64_t>(ranks_.size()); }
  /// Whether every job that needed a resident has been answered.
  bool residents_are_idle() const { return resident_jobs_ == 0; }
  /// An empty handler removes the present one.
  void on_answer(JobKind kind, AnswerHandler handler);

  /// Waits until `done()` holds. It is called after every message, after every local step of work,
  /// and at the latest `patience()` after its last call.
  void wait_until(const std::function<bool()>& done, const Patience& patience = {});
  /// From now on a wait ends with Interrupted when `condition()` holds; an empty function removes
  /// the condition.
  void interrupt_when(std::function<bool()> condition) { interrupt_ = std::move(condition); }
  /// Handles the messages that have arrived, without waiting.
  void poll();
  /// Ends all workers and handles their last messages.
  void stop();

 private:
  using Order = std::tuple<Nanoseconds, Endpoint, std::int64_t>;  // due, endpoint, number
  struct Waiting {
    Job job;
    std::int64_t work;
  };
  struct Placement {
    std::size_t place;  // index into ranks_
    std::int64_t work;
    bool needs_resident;
  };
  struct Load {
    std::int64_t jobs = 0;  // outstanding
    std::int64_t work = 0;  // of these
  };
  /// A payload that a rank keeps. The server needs no more than to know it again.
  struct KeptPayload {
    std::int64_t version;
    std::weak_ptr<const Bytes> payload;
  };
  std::int64_t place_payload(std::size_t place, const Job& job);
  void hand_out();
  void send(std::size_t place, const Job& job, std::int64_t work);
  void handle(Message message);
  void take_answer(Answer answer);
  bool progress();

  Mailbox& mailbox_;
  Worker* local_;
  bool real_time_;
  std::vector<int> ranks_;                         // with a worker
  std::vector<Load> loads_;                        // by index into ranks_
  std::vector<std::deque<KeptPayload>> payloads_;  // that each rank keeps, newest first
  std::map<Order, Waiting> waiting_;
  std::map<std::int64_t, Placement> placed_;  // by number
  std::map<std::int64_t, Answer> arrived_;    // by number
  std::map<JobKind, AnswerHandler> handlers_;
  std::function<void(Answer&)> arrival_;
  std::int64_t resident_jobs_ = 0;  // outstanding jobs that need a resident
  std::function<bool()> interrupt_;
  int stopped_ = 0;
};

}  // namespace espalier
