#pragma once
// A job is a piece of work that the server hands out and that has one answer: a client's task, a
// shard of an evaluation. On a rank it is a stepper, so that jobs take turns and messages move
// between steps. Pool and worker handle jobs and know no protocol: each kind of job is registered
// with the function that makes its stepper.

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "espalier/comm/mailbox.h"
#include "espalier/device/device.h"

namespace espalier {

/// What a job is, on the wire: the hash of its name ("evaluation.evaluate").
enum class JobKind : std::int32_t {};
consteval JobKind job_kind(std::string_view name) {
  std::uint32_t hash = 2166136261u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return JobKind{static_cast<std::int32_t>(hash)};
}

/// When a rank works on a job.
enum class Urgency : std::int32_t {
  normal,  ///< in the order (due, endpoint, number)
  idle,    ///< when nothing else is left, or once normal jobs are two versions ahead
  first    ///< before anything else, because the server waits for it
};

/// In real time: when an endpoint is to compute.
struct Pace {
  Nanoseconds begin = 0;
  Nanoseconds length = 0;
};

struct Job {
  JobKind kind{};
  std::int64_t number = 0;  ///< unique among the jobs whose answers are collected
  Endpoint endpoint = kServer;
  Nanoseconds due = 0;       ///< emulated time at which its answer is expected
  std::int64_t version = 0;  ///< of the global model that it works on
  Urgency urgency = Urgency::normal;
  std::optional<Pace> pace{};
  bool needs_resident = false;  ///< of its endpoint (resident.h), which decides on the rank
  SharedBytes head{};           ///< description
  SharedBytes payload{};        ///< large values, which several jobs may share
};

struct Answer {
  JobKind kind{};
  std::int64_t number = 0;
  Endpoint endpoint = kServer;
  SharedBytes head{};
  SharedBytes payload{};
  double host_s = 0;  ///< that its work took on the rank
  /// Of a paced job: when its work was done.
  std::optional<Nanoseconds> computed{};
  int rank = 0;  ///< that did it; no result may depend on it
  std::chrono::steady_clock::time_point received{};
};

/// The work of one job, in steps.
class Stepper {
 public:
  struct Output {
    SharedBytes head;
    SharedBytes payload;
    bool is_sent_twice = false;  ///< a fault on purpose; the server drops the second answer
  };

  virtual ~Stepper() = default;
  /// One batch, one block, one token; false when nothing is left to do.
  virtual bool step() = 0;
  /// Call once, after step() returned false.
  virtual Output finish() = 0;
  /// Steps over which a job's pace is spread, and how many of them are done. By default the job has
  /// no pace, and is done as soon as its rank comes to it.
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

/// How the payload of a job's message travels. Several jobs may share a payload; the server sends
/// it to each rank once. Both sides keep the last few payloads in the order sent: k > 0 is the k-th
/// newest of them.
inline constexpr std::size_t kKeptPayloads = 4;
inline constexpr std::int64_t kPayloadNotKept = -1;  ///< it comes with the job
inline constexpr std::int64_t kPayloadKept = 0;      ///< it comes with the job, and others follow

/// A job as a message to its endpoint. `payload_place`: see above.
Message message_of(const Job& job, std::int64_t payload_place);
/// The inverse; without the payload if that did not come with it.
Job job_of(const Message& message);
std::int64_t payload_place_of(const Message& message);

Message message_of(const Answer& answer);
/// The inverse, received now.
Answer answer_of(const Message& message);

}  // namespace espalier
