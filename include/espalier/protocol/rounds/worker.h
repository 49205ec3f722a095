#pragma once
// The client side of `rounds` on one rank: a queue of client tasks in order of virtual finish, and
// evaluation shards, which are the lowest-priority steps. In real time the tasks take turns, each
// batch when it is due. Lives on every rank but 0, and on rank 0 where it is alone.

#include <chrono>
#include <deque>
#include <limits>
#include <memory>
#include <optional>

#include "espalier/comm/mailbox.h"
#include "espalier/protocol/rounds/pace.h"
#include "espalier/train/client.h"
#include "espalier/train/evaluate.h"

namespace espalier {

/// Sub-types of MessageType::evaluate.
enum class ShardKind : std::int32_t { calibrate = 0, evaluate = 1 };

/// The server sends a payload that several tasks share to a rank once. Both sides keep the last few
/// payloads in the order sent; a task's sub-type says which it starts from: 0 the one that comes
/// with it, k > 0 the k-th newest before it.
inline constexpr std::size_t kKeptPayloads = 4;

/// A range of evaluation batches of one version; travels in a message's head.
struct Shard {
  std::int64_t version = 0;
  std::int64_t first = 0;
  std::int64_t last = 0;  ///< one past the last batch
  bool urgent = false;    ///< before anything else, for the server waits for it
  Bytes encode() const;
  static Shard decode(std::span<const std::byte> bytes);
};

class Worker {
 public:
  /// `real_time`: that of a paced run, else null.
  Worker(const Experiment& experiment, const Config& config, ClientRules rules, Mailbox& mailbox,
         const RealTime* real_time);

  /// Takes a message that was sent to this rank's clients.
  void accept(Message message);
  /// One batch of the most urgent work; false if there is none.
  bool step();
  bool stopped() const { return stopped_; }
  /// How long there will be nothing to do, unless a message comes.
  std::chrono::nanoseconds patience() const;

  /// The life of a worker rank: receive, step, sleep when idle, until told to stop.
  void run();

 private:
  struct Evaluation {
    Shard shard;
    ShardKind kind;
    std::shared_ptr<Parameters> model;
    std::int64_t id;
    std::int64_t next;
    // evaluate: samples, loss, top1, top5 of each batch and set; calibrate: moments of each batch
    std::vector<double> results;
  };
  struct Work {
    std::unique_ptr<ClientStepper> stepper;
    // In real time: the host's least for a batch, and of how many that is.
    double step_s = std::numeric_limits<double>::infinity();
    std::int64_t measured = 0;
  };
  using Place = std::vector<Work>::iterator;
  void accept_task(Message message);
  void accept_shard(const Message& message);
  bool step_task();
  bool step_shard();
  Place most_urgent();
  bool train(Work& work);
  void watch(Work& work, double step_s);

  const Experiment& experiment_;
  const Config& config_;
  ClientRules rules_;
  Mailbox& mailbox_;
  EvaluationPlan evaluation_plan_;
  const RealTime* real_time_;
  bool warm_ = false;        // has trained a batch
  bool warned_ = false;      // that it cannot keep up
  std::vector<Work> tasks_;  // first: next to finish
  std::deque<Evaluation> shards_;
  std::deque<SharedBytes> payloads_;  // newest first
  std::int64_t latest_base_ = 0;
  bool stopped_ = false;
};

}  // namespace espalier
