#pragma once
// The work of one rank: a queue of jobs in the order in which their answers are expected, and jobs
// for idle moments, such as shards of evaluations. In real time the jobs take turns, each step when
// it is due. A worker lives on every rank but 0, and on rank 0 if that is the only one.

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
  /// `real_time`: that of a paced run, else null.
  Worker(const JobKinds& kinds, Mailbox& mailbox, const RealTime* real_time);

  /// Takes a job that was sent to this rank.
  void accept(const Message& message);
  /// One step of the most urgent job; false if there is none.
  bool step();
  /// How long there will be nothing to do, unless a message comes.
  std::chrono::nanoseconds patience() const;

  /// The life of a worker rank: receive, step, sleep when idle, until the server ends it.
  void run();

 private:
  struct Work {
    Job job;  // without head and payload, which its stepper has
    std::unique_ptr<Stepper> stepper;
    double host_s = 0;  // that it took so far
    // In real time: the host's shortest time for a step, and of how many steps that is.
    double step_s = std::numeric_limits<double>::infinity();
    std::int64_t measured = 0;
  };
  using Place = std::vector<Work>::iterator;
  SharedBytes kept_payload(const Message& message);
  bool step_job();
  bool step_aside();
  Place most_urgent();
  bool advance(Work& work);
  void watch(Work& work, double step_s);
  void answer(Work& work);

  const JobKinds& kinds_;
  Mailbox& mailbox_;
  const RealTime* real_time_;
  bool warm_ = false;                 // has made a step
  bool warned_ = false;               // that it cannot keep up
  std::vector<Work> jobs_;            // Urgency::normal; the first is next to finish
  std::deque<Work> aside_;            // Urgency::first, then Urgency::idle
  std::deque<SharedBytes> payloads_;  // newest first
  std::int64_t latest_version_ = 0;   // of a normal job
};

}  // namespace espalier
