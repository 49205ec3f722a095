#pragma once
// Emulated time: computed from costs (virtual, measured) or run in real time (paced). A protocol
// gives its jobs to the clock and asks it for the next answer. The clock alone decides when that
// answer comes, so a protocol is the same loop with each of the three clocks. Every job passes the
// server's links and processor, which are first-in-first-out queues.

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
  std::int64_t number = 0;  ///< of the job
  Endpoint endpoint = kServer;
  bool is_answered = true;  ///< false: its endpoint fails; the server notices at the scheduled end
  std::int64_t bytes_down = 0, bytes_up = 0;
  std::int64_t flops = 0;         ///< of the endpoint
  std::int64_t server_flops = 0;  ///< of the server, to process the answer
  Nanoseconds sent = 0, download = 0, compute = 0, upload = 0;
  /// Flops, bytes up and times are lower bounds; the true values follow from the answer
  /// (Clock::settle).
  bool is_bounded = false;
  /// Of a job that may fail at any moment after its download: the upload time of the answer that
  /// says so. The members above are those of a success. Empty once the answer is known
  /// (Clock::settle).
  std::optional<Nanoseconds> failure_upload{};
  // The clock sets the members below.
  Nanoseconds queued = 0;  ///< before the download: wait for the server's link, and time on it
  Nanoseconds due = 0;     ///< of the job
  /// Whether the times above are final, unless the job fails. If not, they are estimates from the
  /// device's rates.
  bool is_final = false;
  // Set with the answer:
  Nanoseconds finish = 0;
  std::optional<Nanoseconds> behind{};  ///< in a paced run: delay that the host caused

  /// When the download begins.
  Nanoseconds leaves() const { return sent + queued; }
  /// When the answer reaches the server's link, or the failure is noticed.
  Nanoseconds arrives() const { return leaves() + download + compute + upload; }
  /// End of the endpoint's work, as estimated at `now`, of an outstanding job.
  Nanoseconds done(Nanoseconds now) const {
    return is_final ? arrives() : std::max(arrives(), now);
  }
  /// Time in the server's queues, on its links and on its processor, in both directions.
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
  /// Replaces the values of a flight that is bounded or may fail by the true ones, given the job's
  /// answer.
  std::function<void(Flight&, const Answer&)> settle;
  /// Starts the clock at time `now`.
  virtual void start(Nanoseconds now) = 0;
  /// Lets time pass until `time`. Call it only while no job is outstanding.
  virtual void pass(Nanoseconds time) = 0;
  /// Sends the job, if it will be answered; sets its due time and pace.
  void send(Flight flight, Job job);
  /// Takes the job of a later send(flight). A computed clock hands it to its rank at once: work on
  /// ranks may go ahead of emulated time where it does not depend on it.
  virtual void prepare(Job job) = 0;
  /// Sends the prepared job with the flight's number, which will be answered.
  void send(Flight flight);
  /// Called with each answer when it arrives, which may be long before its event; the answer in the
  /// event is what the handler leaves of it. An empty handler removes the present one.
  virtual void on_arrival(std::function<void(Answer&)> handler) = 0;
  /// The same for a job that was outstanding at a checkpoint: it has passed the outgoing link
  /// already, and its work is done again.
  void send_again(Flight flight, Job job) { hold(flight, std::move(job)); }
  /// The next answer or failure in order of events, unless it comes after `limit`. Call it only
  /// while a job is outstanding.
  virtual std::optional<Event> next(std::optional<Nanoseconds> limit) = 0;
  /// Jobs that were sent and that next() has not returned yet, in the order in which it will return
  /// them, as far as that is known.
  const std::map<Key, Flight>& out() const { return out_; }
  /// Saves the server's queues. The protocol itself saves outstanding jobs and sends them again.
  void archive(Archive& archive) { server_.archive(archive); }

 protected:
  Clock(Pool& pool, const ServerResources& server) : pool_(pool), server_(server) {}
  /// Takes a job that has passed the server's outgoing link.
  virtual void hold(Flight flight, Job job) = 0;
  /// The same for a prepared job.
  virtual void hold(Flight flight) = 0;
  /// Puts the job into the queue of the server's outgoing link.
  void enter(Flight& flight);
  /// Calls settle(), if needed.
  void settle_by(const Answer& answer, Flight& flight);
  /// Time at which the server has processed the first of out_, if no other comes before it. A lower
  /// bound, if the first is open.
  Nanoseconds first_done() const;
  /// Processes the first of out_ and removes it.
  Flight take_first();

  Pool& pool_;
  ServerResources server_;
  std::map<Key, Flight> out_;
};

/// clock.kind, clock.scale, clock.host_gflops.
void declare_clock_options(OptionTable& table);
/// The kind of clock, and the rates of the server's links and processor.
struct ClockSettings {
  ServerResources server;
  std::optional<double> scale;        ///< paced: real seconds per emulated second
  std::optional<double> host_gflops;  ///< measured: the effective rate of this machine
};
/// InputError if the measured clock needs this machine's rate and a device has several rates.
ClockSettings clock_settings(const Config& config, const Fleet& fleet);
/// `real_time`: of a paced run, else null. Pool and real time must outlive the clock.
std::unique_ptr<Clock> make_clock(const ClockSettings& settings, Pool& pool,
                                  const RealTime* real_time);

}  // namespace espalier
