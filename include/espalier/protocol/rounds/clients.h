#pragma once
// The server's record of the clients: idle and absent clients, the submodels with which clients ran
// out of memory, and the state that each client keeps between its tasks.

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "espalier/device/availability.h"
#include "espalier/protocol/rounds/rules.h"
#include "espalier/protocol/rounds/sampling.h"

namespace espalier::rounds {

class Clients {
 public:
  /// All clients are idle. `max_spread`: tasks that a client may be ahead of the slowest, if
  /// limited (window.h). Experiment and rule must outlive it.
  Clients(const Experiment& experiment, SubmodelRule& rule, Sampler sampler,
          Availability availability, std::optional<std::int64_t> max_spread);

  /// The state of the run when tasks are sent.
  struct Moment {
    Nanoseconds now = 0;
    std::int64_t version = 0;
    std::int64_t slot = 0;     ///< tasks of this version that were sent before
    std::int64_t at_work = 0;  ///< clients that belong to the round already
    /// Smallest nth_task of the outstanding tasks.
    std::int64_t slowest_out = std::numeric_limits<std::int64_t>::max();
  };
  /// Chooses the idle clients that work next, which are then not idle; ascending.
  std::vector<std::int64_t> take(const Moment& moment);
  /// The number of the client's next task, which is counted as sent.
  std::int64_t number_task(std::int64_t client) {
    return tasks_of_[static_cast<std::size_t>(client)]++;
  }
  /// The client is idle again.
  void release(std::int64_t client) { insert_idle(client); }
  /// The client is absent until the given time.
  void leave(std::int64_t client, Nanoseconds until) { away_until_[client] = until; }
  /// The client gets neither this submodel nor a larger one again.
  void ran_out_of_memory(std::int64_t client, const Submodel& with) { too_large_[client] = with; }
  /// Why no client can be given work, and a remedy. Call it while all are idle.
  std::string obstacle(const Moment& moment) const;
  /// The next time at which a client may become available.
  std::optional<Nanoseconds> next_return(Nanoseconds now) const;

  /// The client's state; empty before its first task.
  const Bytes& state(std::int64_t client) const;
  void keep_state(std::int64_t client, const Bytes& state) { states_[client] = state; }

  /// The client gets a task with this submodel: the number of frozen values that it has to receive.
  /// What it holds is a submodel, the union of those that it was sent; it receives what the union
  /// gains, also if the task fails later.
  std::int64_t receive_frozen(std::int64_t client, const Submodel& submodel);

  void archive(Archive& archive);

 private:
  std::int64_t next_task(std::int64_t client) const {
    return tasks_of_[static_cast<std::size_t>(client)];
  }
  void insert_idle(std::int64_t client);
  void erase_idle(std::int64_t client);
  bool few_are_idle() const;
  const ClientSet* present(Nanoseconds now);
  const ClientSet* drawn(std::int64_t period);
  const ClientSet* in_trace(Nanoseconds now);
  bool is_available(std::int64_t client, Nanoseconds now, std::int64_t period) const;
  bool has_memory(std::int64_t client, const Moment& moment) const;
  std::int64_t furthest_task(const Moment& moment) const;
  std::vector<std::int64_t> within_spread(const Moment& moment) const;

  const Experiment& experiment_;
  SubmodelRule& rule_;
  Sampler sampler_;
  Availability availability_;
  std::optional<std::int64_t> max_spread_;
  ClientSet idle_;
  /// With max_spread, the idle clients by the number of their next task; no set is empty.
  std::map<std::int64_t, ClientSet> idle_by_task_;
  /// Those who are there by the draws of a period or by the trace at a time, the last one that was
  /// asked for.
  struct Known {
    ClientSet clients{};
    std::int64_t at = -1;
  };
  Known drawn_, traced_;
  std::vector<std::int64_t> tasks_of_;                        // sent so far
  std::unordered_map<std::int64_t, Nanoseconds> away_until_;  // of those that vanished
  std::unordered_map<std::int64_t, Submodel> too_large_;
  std::unordered_map<std::int64_t, Bytes> states_;
  std::unordered_map<std::int64_t, Submodel> frozen_;  // whose frozen values a client holds
};

}  // namespace espalier::rounds
