#pragma once
// The server's view of the ranks that do client work: it places jobs and collects their answers.
// Which rank did what never reaches a result. A rank is handed a few jobs ahead; the rest wait here
// in the order in which their answers will be asked for, so that slower ranks get fewer of them and
// none ends long after the others. In real time nothing can wait: every job goes to a rank at once.

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
  /// Thrown out of a wait that is given up.
  struct Interrupted {};

  /// `local`: the worker on this rank if it is the only rank, else null. `real_time`: whether jobs
  /// run in it.
  Pool(Mailbox& mailbox, int ranks, Worker* local, bool real_time);

  /// Queues a job for the rank that first has room for it; one that needs a resident goes to its
  /// rank at once. `work`: what ranks get equal shares of,
  /// operations or, in real time, operations per second.
  void submit(Job job, std::int64_t work);
  /// Waits until the job's answer is here, progressing everything else, and hands it over.
  Answer collect(std::int64_t number);
  /// The same, but the answer stays to be collected.
  const Answer& await(std::int64_t number);
  /// Any answer that is here.
  std::optional<Answer> take();

  /// Sends a job to the rank at `place`, one of places(), at once. Its answer goes to the handler
  /// of its kind.
  void submit_to(std::int64_t place, const Job& job);
  /// The place of an endpoint's residents.
  std::int64_t home(Endpoint endpoint) const { return endpoint % places(); }
  std::int64_t places() const { return static_cast<std::int64_t>(ranks_.size()); }
  /// An empty handler takes the present one away.
  void on_answer(JobKind kind, AnswerHandler handler);

  /// Waits until `done()` holds, which it asks after every message, every step of work done here,
  /// and at the latest `patience()` after it last asked.
  void wait_until(const std::function<bool()>& done, const Patience& patience = {});
  /// From here on waits are given up when `asked()` holds; until called with nothing.
  void interrupt_when(std::function<bool()> asked) { interrupt_ = std::move(asked); }
  /// Takes the messages that have arrived, without waiting.
  void poll();
  /// Ends all workers and takes what they still sent.
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
  };
  struct Load {
    std::int64_t jobs = 0;  // outstanding
    std::int64_t work = 0;  // of these
  };
  std::int64_t place_payload(std::size_t place, const SharedBytes& payload);
  void hand_out();
  void send(std::size_t place, const Job& job, std::int64_t work);
  void handle(Message message);
  void take_answer(Answer answer);
  bool progress();

  Mailbox& mailbox_;
  Worker* local_;
  bool real_time_;
  std::vector<int> ranks_;                         // that work
  std::vector<Load> loads_;                        // by index into ranks_
  std::vector<std::deque<SharedBytes>> payloads_;  // that each rank keeps, newest first
  std::map<Order, Waiting> waiting_;
  std::map<std::int64_t, Placement> placed_;  // by number
  std::map<std::int64_t, Answer> arrived_;    // by number
  std::map<JobKind, AnswerHandler> handlers_;
  std::function<bool()> interrupt_;
  int stopped_ = 0;
};

}  // namespace espalier
