#pragma once
// A job is a piece of work that the server sends to a rank and that has one answer: a client's
// task, a shard of an evaluation. On a rank it is a stepper, so that jobs can alternate and
// messages move between steps. Pool and worker know no protocol: each kind of job is registered
// with the function that makes its stepper.

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "espalier/comm/mailbox.h"
#include "espalier/device/device.h"

namespace espalier {

/// The kind of a job in messages: the hash of its name ("evaluation.evaluate").
enum class JobKind : std::int32_t {};
consteval JobKind job_kind(std::string_view name) {
  std::uint32_t hash = 2166136261u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return JobKind{static_cast<std::int32_t>(hash)};
}

/// When a rank works on a job.
enum class Urgency : std::int32_t {
  normal,  ///< in the order (due, endpoint, number)
  idle,    ///< if there is no other job, or once normal jobs are two versions ahead
  first    ///< before all others, because the server waits for it
};

/// In a paced run: the time in which an endpoint computes.
struct Pace {
  Nanoseconds begin = 0;
  Nanoseconds length = 0;
};

struct Job {
  JobKind kind{};
  std::int64_t number = 0;  ///< unique among the jobs whose answers are collected
  Endpoint endpoint = kServer;
  Nanoseconds due = 0;       ///< emulated time of its expected answer
  std::int64_t version = 0;  ///< of the global model that it uses
  Urgency urgency = Urgency::normal;
  std::optional<Pace> pace{};
  bool needs_resident = false;  ///< it must run on the rank of its endpoint's resident (resident.h)
  SharedBytes head{};           ///< description
  SharedBytes payload{};        ///< large values, which several jobs may share
};

struct Answer {
  JobKind kind{};
  std::int64_t number = 0;
  Endpoint endpoint = kServer;
  SharedBytes head{};
  SharedBytes payload{};
  double host_s = 0;  ///< time of its work on the rank
  /// Of a paced job: end of its work.
  std::optional<Nanoseconds> computed{};
  int rank = 0;  ///< that did the work; no result may depend on it
  std::chrono::steady_clock::time_point received{};
};

/// The work of one job, in steps.
class Stepper {
 public:
  struct Output {
    SharedBytes head;
    SharedBytes payload;
    bool is_sent_twice = false;  ///< an injected fault; the server drops the second answer
  };

  virtual ~Stepper() = default;
  /// Does one batch, one block or one token; false if nothing is left to do.
  virtual bool step() = 0;
  /// Call once, after step() returned false.
  virtual Output finish() = 0;
  /// Number of steps over which the pace of a job is spread, and number of finished steps. By
  /// default a job has no pace and runs as soon as its rank is free.
  virtual std::int64_t steps() const { return 0; }
  virtual std::int64_t steps_done() const { return 0; }
};

/// The kinds of jobs that a rank can do. Every rank registers the same.
class JobKinds {
 public:
  using MakeStepper = std::function<std::unique_ptr<Stepper>(Job)>;
  /// A kind registered twice is a broken invariant.
  void add(JobKind kind, MakeStepper make);
  std::unique_ptr<Stepper> make(Job job) const;

 private:
  std::map<JobKind, MakeStepper> kinds_;
};

/// The place of a payload. Several jobs may use one payload, and the server sends it to each rank
/// once. Both sides keep the last few payloads of the newest version in the order of sending: place
/// k > 0 is the k-th newest of them, which is not sent again.
inline constexpr std::size_t kKeptPayloads = 4;
/// Both sides keep a payload by this one rule. `Kept` is what a side needs of it, with its job's
/// `version`. Large models do not leave room for payloads of earlier versions, which no job uses.
template <class Kept>
void keep_payload(std::deque<Kept>& kept, Kept newest) {
  std::erase_if(kept, [&](const Kept& older) { return older.version < newest.version; });
  kept.push_front(std::move(newest));
  if (kept.size() > kKeptPayloads) kept.pop_back();
}
inline constexpr std::int64_t kPayloadNotKept = -1;  ///< sent with the job
inline constexpr std::int64_t kPayloadKept = 0;      ///< sent with the job, and kept for others

/// A job as a message to its endpoint. `payload_place`: see above.
Message message_of(const Job& job, std::int64_t payload_place);
/// The inverse; without the payload if the message has none.
Job job_of(const Message& message);
std::int64_t payload_place_of(const Message& message);

Message message_of(const Answer& answer);
/// The inverse, received now.
Answer answer_of(const Message& message);

}  // namespace espalier
