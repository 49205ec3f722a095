#pragma once
// The server's view of the ranks that do client work: it places tasks and evaluation shards, and
// collects what comes back. Which rank did what never reaches a result. A rank is handed a few
// tasks ahead, the rest wait here in the order in which their results will be asked for: ranks that
// turn out slower than others then get fewer, and none ends long after the rest. In real time
// nothing can wait: every task goes to a rank at once.

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "espalier/comm/mailbox.h"
#include "espalier/protocol/rounds/worker.h"
#include "espalier/train/client.h"

namespace espalier {

class Pool {
 public:
  struct Arrival {
    ClientResult result;
    SharedBytes values;
    std::int64_t client = 0;
    int rank = 0;
    std::chrono::steady_clock::time_point received{};
  };
  using EvaluationHandler =
      std::function<void(const Shard&, ShardKind, const SharedBytes& payload)>;

  using Patience = std::function<std::chrono::nanoseconds()>;
  /// Thrown out of a wait that is given up.
  struct Interrupted {};

  /// `local`: the worker on this rank where it is alone, else null. `real_time`: whether tasks run
  /// in it.
  Pool(Mailbox& mailbox, int ranks, Worker* local, bool real_time);

  /// Queues a task for the rank that first has room for it. `work`: what ranks get equal shares of,
  /// operations or, in real time, operations per second.
  void submit(const ClientTask& task, SharedBytes payload, std::int64_t work);
  /// Waits until the task's result is here, progressing everything else, and hands it over.
  Arrival collect(std::int64_t task);
  /// The same, but the result stays to be collected.
  const Arrival& await(std::int64_t task);
  /// Any result that is here.
  std::optional<Arrival> take();

  /// Cuts `batches` batches into one shard per rank and sends them. `urgent`: as in Shard.
  void evaluate(std::int64_t version, ShardKind kind, std::int64_t batches, SharedBytes model,
                bool urgent);
  void on_evaluation(EvaluationHandler handler) { handler_ = std::move(handler); }
  /// Waits until `done()` holds, which it asks after every message, every step of work done here,
  /// and at the latest `patience()` after it last asked.
  void wait_until(const std::function<bool()>& done, const Patience& patience = {});
  /// From here on waits are given up when `asked()` holds; until called with nothing.
  void interrupt_when(std::function<bool()> asked) { interrupt_ = std::move(asked); }
  /// Takes what has arrived, without waiting.
  void poll();
  /// Answers to tasks that had been answered already; they have no effect.
  std::int64_t duplicates() const { return duplicates_; }
  /// Ends all workers and takes what they still sent.
  void stop();

 private:
  using Urgency = std::tuple<Nanoseconds, std::int64_t, std::int64_t>;  // finish, client, task
  struct Waiting {
    Message message;
    std::int64_t work;
  };
  struct Placement {
    std::size_t place;  // index into ranks_
    std::int64_t work;
  };
  struct Load {
    std::int64_t tasks = 0;  // outstanding
    std::int64_t work = 0;   // of these
  };
  std::int32_t place_payload(std::size_t place, const SharedBytes& payload);
  void hand_out();
  void handle(Message message);
  bool progress();

  Mailbox& mailbox_;
  Worker* local_;
  bool real_time_;
  std::vector<int> ranks_;                         // that work
  std::vector<Load> loads_;                        // by index into ranks_
  std::vector<std::deque<SharedBytes>> payloads_;  // that each rank keeps, newest first
  std::map<Urgency, Waiting> waiting_;
  std::map<std::int64_t, Placement> placed_;
  std::map<std::int64_t, Arrival> arrived_;
  EvaluationHandler handler_;
  std::function<bool()> interrupt_;
  std::int64_t duplicates_ = 0;
  int stopped_ = 0;
};

}  // namespace espalier
