#pragma once
// The work of one rank: a queue of jobs in the order in which their answers are expected, and jobs
// for idle time, such as shards of evaluations. In a paced run the jobs alternate, and each step
// runs when it is due. Every rank but 0 has a worker; rank 0 has one if it is the only rank.

#include <chrono>
#include <deque>
#include <limits>
#include <memory>
#include <vector>

#include "espalier/comm/mailbox.h"
#include "espalier/engine/job.h"
#include "espalier/engine/real_time.h"

namespace espalier {

class Worker {
 public:
  /// `real_time`: of a paced run, else null.
  Worker(const JobKinds& kinds, Mailbox& mailbox, const RealTime* real_time);

  /// Queues a job that was sent to this rank.
  void accept(const Message& message);
  /// Does one step of the most urgent job; false if there is none.
  bool step();
  /// Time until the next step is due, if no message comes.
  std::chrono::nanoseconds patience() const;

  /// The loop of a worker rank: receives, steps, and sleeps when idle, until the server ends it.
  void run();

 private:
  struct Work {
    Job job;  // without head and payload, which its stepper has
    std::unique_ptr<Stepper> stepper;
    double host_s = 0;  // so far
    // In a paced run: the shortest host time of a step, and the number of measured steps.
    double step_s = std::numeric_limits<double>::infinity();
    std::int64_t measured = 0;
  };
  struct KeptPayload {
    std::int64_t version;
    SharedBytes payload;
  };
  using Place = std::vector<Work>::iterator;
  SharedBytes kept_payload(const Message& message, std::int64_t version);
  bool step_job();
  bool step_unpaced();
  Place most_urgent();
  bool advance(Work& work);
  void watch(Work& work, double step_s);
  void answer(Work& work);

  const JobKinds& kinds_;
  Mailbox& mailbox_;
  const RealTime* real_time_;
  bool has_stepped_ = false;
  bool warned_ = false;               // that it is too slow
  std::vector<Work> jobs_;            // Urgency::normal; the first is next to finish
  std::deque<Work> unpaced_;          // Urgency::first, then Urgency::idle
  std::deque<KeptPayload> payloads_;  // newest first
  std::int64_t latest_version_ = 0;   // of a normal job
};

}  // namespace espalier
