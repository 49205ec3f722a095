#pragma once
// The clients as the server knows them: who is idle, who is away, who ran out of memory with which
// submodel, and the state that each keeps between its tasks.

#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "espalier/device/availability.h"
#include "espalier/protocol/rounds/rules.h"
#include "espalier/protocol/rounds/sampling.h"

namespace espalier::rounds {

class Clients {
 public:
  /// All are idle. `max_spread`: tasks that a client may be ahead of the slowest, if limited
  /// (window.h). Experiment and rule must outlive it.
  Clients(const Experiment& experiment, SubmodelRule& rule, Sampler sampler,
          Availability availability, std::optional<std::int64_t> max_spread);

  /// When work is given out.
  struct Moment {
    Nanoseconds now = 0;
    std::int64_t version = 0;
    std::int64_t slot = 0;     ///< tasks of this version that were sent before
    std::int64_t at_work = 0;  ///< clients that belong to the round already
    /// Least nth_task of those that are out.
    std::int64_t slowest_out = std::numeric_limits<std::int64_t>::max();
  };
  /// Takes those out of the idle ones that work next, ascending.
  std::vector<std::int64_t> take(const Moment& moment);
  /// The client's next task; counts it as sent.
  std::int64_t number_task(std::int64_t client) {
    return tasks_of_[static_cast<std::size_t>(client)]++;
  }
  /// The client has no task any more.
  void release(std::int64_t client) { idle_.insert(client); }
  /// It vanished.
  void leave(std::int64_t client, Nanoseconds until) { away_until_[client] = until; }
  /// It is sent neither this submodel nor a larger one again.
  void ran_out_of_memory(std::int64_t client, const Submodel& with) { too_large_[client] = with; }
  /// The next time at which some client may come back.
  std::optional<Nanoseconds> next_return(Nanoseconds now) const;

  /// Empty if it has none.
  const Bytes& state(std::int64_t client) const;
  void keep_state(std::int64_t client, const Bytes& state) { states_[client] = state; }

  void archive(Archive& archive);

 private:
  std::int64_t next_task(std::int64_t client) const {
    return tasks_of_[static_cast<std::size_t>(client)];
  }
  bool is_available(std::int64_t client, Nanoseconds now) const;
  bool has_memory(std::int64_t client, const Moment& moment) const;
  std::int64_t furthest_task(const Moment& moment) const;

  const Experiment& experiment_;
  SubmodelRule& rule_;
  Sampler sampler_;
  Availability availability_;
  std::optional<std::int64_t> max_spread_;
  std::set<std::int64_t> idle_;
  std::vector<std::int64_t> tasks_of_;                        // sent so far
  std::unordered_map<std::int64_t, Nanoseconds> away_until_;  // of those that vanished
  std::unordered_map<std::int64_t, Submodel> too_large_;
  std::unordered_map<std::int64_t, Bytes> states_;
};

}  // namespace espalier::rounds
