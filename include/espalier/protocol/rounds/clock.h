#pragma once
// What time is. The server hands its tasks to the clock and asks it for the next answer; when that
// comes, and how the wait for it is spent, is the clock's business. So the server is one loop,
// whatever the time is that it runs in.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "espalier/protocol/rounds/faults.h"
#include "espalier/protocol/rounds/pool.h"

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
  // From here on set by the clock, when it gives the answer.
  Nanoseconds finish = 0;
  Pool::Arrival arrival;  ///< empty where the client does not answer

  bool answers() const { return !fate.crashes && !fate.vanishes; }
  /// When the answer reaches the server, or its failure is known.
  Nanoseconds arrives() const { return sent + download + compute + upload; }
};

class Clock {
 public:
  /// Order of events: (time, client, task).
  using Key = std::tuple<Nanoseconds, std::int64_t, std::int64_t>;

  virtual ~Clock() = default;
  /// Has the task's work done, if its client will answer.
  virtual void send(SentTask sent) = 0;
  /// The next answer or failure in order of events, unless it comes after `limit`. Call with
  /// something out.
  virtual std::optional<SentTask> next(std::optional<Nanoseconds> limit) = 0;
  /// Tasks that were sent and not yet handed out by next(), in the order in which they will be, as
  /// far as that is known.
  const std::map<Key, SentTask>& out() const { return out_; }

 protected:
  explicit Clock(Pool& pool) : pool_(pool) {}
  Pool& pool_;
  std::map<Key, SentTask> out_;
};

/// clock.kind.
void declare_clock_options(OptionTable& table);
std::unique_ptr<Clock> make_clock(Pool& pool);

}  // namespace espalier
