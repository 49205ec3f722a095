#pragma once
// The choice of the idle clients that work next. Draws are keyed by their number, so they depend
// only on the set of idle clients. With a million clients a draw reads a few of them, not all.

#include <cstdint>
#include <functional>
#include <set>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/protocol/rounds/client_set.h"
#include "espalier/train/experiment.h"

namespace espalier::rounds {

/// clients.sampling, clients.over_select.
void declare_sampling_options(OptionTable& table);

class Sampler {
 public:
  /// `experiment` must outlive it.
  Sampler(const Config& config, const Experiment& experiment);

  /// How many clients work at once: clients.per_round times clients.over_select; 0: all.
  std::int64_t at_once() const { return at_once_; }
  /// The clients that can be chosen.
  struct Choice {
    const ClientSet& idle;
    std::function<bool(std::int64_t)> can_work;  ///< of an idle client
    /// A set of which all that can work are a part; null: none is known. It is asked for only if
    /// few can work, so that its making pays.
    std::function<const ClientSet*()> present = [] { return nullptr; };
  };
  /// At most `want` of the idle clients that can work, ascending. uniform: with equal probability;
  /// weighted: with probability by their samples; round_robin: in turn, beginning after the last
  /// chosen client. The set of those present has no effect on the choice, only on its cost.
  std::vector<std::int64_t> choose(std::int64_t want, const Choice& choice);
  void archive(Archive& archive);

 private:
  enum class Kind { uniform, weighted, round_robin };
  std::vector<std::int64_t> take_turns(std::int64_t want, const Choice& choice);
  std::set<std::int64_t> draw(std::int64_t want, const Choice& choice);

  const Experiment& experiment_;
  Kind kind_;
  std::int64_t at_once_ = 0;
  std::int64_t most_samples_ = 0;
  std::int64_t draws_ = 0;
  std::int64_t next_ = 0;  // round_robin
};

}  // namespace espalier::rounds
