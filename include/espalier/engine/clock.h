#pragma once
// Emulated time: computed from costs (virtual, measured) or run in real time (paced). The server
// hands its jobs to the clock and asks it for the next answer; when that comes, and how the wait is
// spent, depends on the clock alone, so a protocol is one loop in all three. The server's links and
// processor are queues that every job passes, first in, first out.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "espalier/engine/job.h"
#include "espalier/engine/pool.h"
#include "espalier/engine/real_time.h"
#include "espalier/engine/resources.h"

namespace espalier {

/// A job from its sending to its answer. Times are emulated.
struct Flight {
  std::int64_t number = 0;  ///< the job's
  Endpoint endpoint = kServer;
  bool is_answered = true;  ///< false: its endpoint fails, which is noticed at the scheduled end
  std::int64_t bytes_down = 0, bytes_up = 0;
  std::int64_t flops = 0;         ///< of the endpoint
  std::int64_t server_flops = 0;  ///< of taking its answer in
  Nanoseconds sent = 0, download = 0, compute = 0, upload = 0;
  /// Flops, bytes up and times are the least that the job takes: how much it takes is known only
  /// from the answer (Clock::settle).
  bool is_bounded = false;
  // From here on set by the clock.
  Nanoseconds queued = 0;  ///< before the download, for the server's link and on it
  Nanoseconds due = 0;     ///< the job's
  /// Whether the times above are final. If not, they are what the device's rates let expect.
  bool is_final = false;
  // With the answer:
  Nanoseconds finish = 0;
  std::optional<Nanoseconds> behind{};  ///< in real time: how late the host was

  /// When the download begins.
  Nanoseconds leaves() const { return sent + queued; }
  /// When the answer reaches the server's link, or the failure is noticed.
  Nanoseconds arrives() const { return leaves() + download + compute + upload; }
  /// When the endpoint is done, as seen at `now`, while the job is out.
  Nanoseconds done(Nanoseconds now) const {
    return is_final ? arrives() : std::max(arrives(), now);
  }
  /// In the server's queues, on its links and its processor, both ways.
  Nanoseconds at_server() const { return queued + finish - arrives(); }
};

class Clock {
 public:
  /// Order of events: (time, endpoint, number).
  using Key = std::tuple<Nanoseconds, Endpoint, std::int64_t>;
  /// The end of a flight; no answer if its endpoint failed.
  struct Event {
    Flight flight;
    std::optional<Answer> answer;
  };

  virtual ~Clock() = default;
  /// Replaces what a bounded flight takes, given the job's answer.
  std::function<void(Flight&, const Answer&)> settle;
  /// It is `now`, and time begins to pass.
  virtual void start(Nanoseconds now) = 0;
  /// No job is out: lets time pass until `time`.
  virtual void pass(Nanoseconds time) = 0;
  /// Sends the job, if it will be answered; sets its due time and pace.
  void send(Flight flight, Job job);
  /// The same for a job that was out at a checkpoint: its work is done again.
  void send_again(Flight flight, Job job) { hold(flight, std::move(job)); }
  /// The next answer or failure in order of events, unless it comes after `limit`. Call with a job
  /// out.
  virtual std::optional<Event> next(std::optional<Nanoseconds> limit) = 0;
  /// Jobs that were sent and not yet handed out by next(), in the order in which they will be, as
  /// far as that is known.
  const std::map<Key, Flight>& out() const { return out_; }
  /// The server's queues. The protocol saves outstanding jobs and sends them again.
  void archive(Archive& archive) { server_.archive(archive); }

 protected:
  Clock(Pool& pool, const ServerResources& server) : pool_(pool), server_(server) {}
  /// Takes a job that has passed the server's outgoing link.
  virtual void hold(Flight flight, Job job) = 0;
  /// When the server is done with the first of out_, if no other comes before.
  Nanoseconds first_done() const;
  /// Takes the first of out_ in, and out.
  Flight take_first();

  Pool& pool_;
  ServerResources server_;
  std::map<Key, Flight> out_;
};

/// clock.kind, clock.scale, clock.host_gflops.
void declare_clock_options(OptionTable& table);
/// Which clock, and what the server's links and processor give.
struct ClockSettings {
  ServerResources server;
  std::optional<double> scale;        ///< paced: real seconds per emulated second
  std::optional<double> host_gflops;  ///< measured: the effective rate of this machine
};
/// InputError if the measured clock cannot tell which of a device's rates is this machine's.
ClockSettings clock_settings(const Config& config, const Fleet& fleet);
/// `real_time`: of a paced run, else null. Pool and real time must outlive the clock.
std::unique_ptr<Clock> make_clock(const ClockSettings& settings, Pool& pool,
                                  const RealTime* real_time);

}  // namespace espalier
