#pragma once
// What time is: that of the emulated clients, computed (virtual, measured) or lived through
// (paced). The server hands its tasks to the clock and asks it for the next answer; when that
// comes, and how the wait is spent, is the clock's business, so the server is one loop in all
// three. The server's links and processor are queues that every task passes, first in, first out.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "espalier/engine/pool.h"
#include "espalier/engine/real_time.h"
#include "espalier/engine/resources.h"
#include "espalier/protocol/rounds/client_job.h"
#include "espalier/protocol/rounds/faults.h"

namespace espalier {

/// A task from its sending to its answer. Times are emulated.
struct SentTask {
  ClientTask task;
  std::shared_ptr<const Geometry> geometry;  ///< dense
  SharedBytes payload;
  std::int64_t flops = 0, bytes_down = 0, bytes_up = 0;
  double share = 1;
  Fate fate;
  Nanoseconds sent = 0, download = 0, compute = 0, upload = 0;
  /// Flops, bytes up and times are the least that the task takes: how large a submodel its client
  /// will find is known only from the answer (Clock::settle).
  bool bounded = false;
  // From here on set by the clock.
  Nanoseconds queued = 0;  ///< before the download, for the server's link and on it
  /// Whether the times above are final. If not, they are what the device's rates let expect.
  bool known = false;
  // With the answer:
  Nanoseconds finish = 0;
  Arrival arrival;                      ///< empty where the client does not answer
  std::optional<Nanoseconds> behind{};  ///< in real time: what the host was late by

  bool answers() const { return !fate.crashes && !fate.vanishes; }
  /// When the download begins.
  Nanoseconds leaves() const { return sent + queued; }
  /// When the answer reaches the server's link, or its failure is known.
  Nanoseconds arrives() const { return leaves() + download + compute + upload; }
  /// When the client is done, as seen at `now`, while the task is out.
  Nanoseconds done(Nanoseconds now) const { return known ? arrives() : std::max(arrives(), now); }
  /// In the server's queues, on its links and its processor, both ways.
  Nanoseconds at_server() const { return queued + finish - arrives(); }
};

class Clock {
 public:
  /// Order of events: (time, client, task).
  using Key = std::tuple<Nanoseconds, std::int64_t, std::int64_t>;

  virtual ~Clock() = default;
  /// Puts what a bounded task takes in its place, given its result.
  std::function<void(SentTask&, const ClientResult&)> settle;
  /// It is `now`, and time begins to pass.
  virtual void start(Nanoseconds now) = 0;
  /// Nobody is at work: lets time pass until `time`.
  virtual void pass(Nanoseconds time) = 0;
  /// Has the task's work done, if its client will answer.
  void send(SentTask sent);
  /// The same for a task of a checkpoint that was out: its work is done anew.
  void send_again(SentTask sent) { hold(std::move(sent)); }
  /// The next answer or failure in order of events, unless it comes after `limit`. Call with
  /// something out.
  virtual std::optional<SentTask> next(std::optional<Nanoseconds> limit) = 0;
  /// Tasks that were sent and not yet handed out by next(), in the order in which they will be, as
  /// far as that is known.
  const std::map<Key, SentTask>& out() const { return out_; }
  /// The server's queues; tasks that are out are saved by their owner, and sent again.
  void archive(Archive& archive) { server_.archive(archive); }

 protected:
  Clock(Pool& pool, const ServerResources& server) : pool_(pool), server_(server) {}
  /// Takes a task that has passed the server's outgoing link.
  virtual void hold(SentTask sent) = 0;
  /// When the server is done with the first of out_, if no other comes before.
  Nanoseconds first_done() const;
  /// Takes the first of out_ in, and out.
  SentTask take_first();

  Pool& pool_;
  ServerResources server_;
  std::map<Key, SentTask> out_;
};

/// clock.kind, clock.scale, clock.host_gflops.
void declare_clock_options(OptionTable& table);
/// Which clock, and what the server's links and processor give.
struct ClockSettings {
  ServerResources server;
  std::optional<double> scale;        ///< paced: real seconds per emulated second
  std::optional<double> host_gflops;  ///< measured: the effective rate of this machine
};
/// InputError where the measured clock cannot tell which of a device's rates is this machine's.
ClockSettings clock_settings(const Config& config, const Fleet& fleet);
/// `real_time`: of a paced run, else null. Pool and real time must outlive the clock.
std::unique_ptr<Clock> make_clock(const ClockSettings& settings, Pool& pool,
                                  const RealTime* real_time);

}  // namespace espalier
