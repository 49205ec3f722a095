#pragma once
// The conversation of `regions` whose regions never wait: the server asks for fragments, merges the
// values of those that answer in time, and sends the result to all (Decoupled DiLoCo;
// docs/methods/decoupled_diloco.md). A region answers, and applies what has arrived, between two of
// its steps. So every job is a single step, and which values meet depends on emulated time; the
// order of events at the same time is fixed, so values do not depend on ranks.

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/engine/protocol.h"
#include "espalier/protocol/regions/counts.h"
#include "espalier/protocol/regions/exchange.h"
#include "espalier/protocol/regions/network.h"
#include "espalier/protocol/regions/places.h"
#include "espalier/protocol/regions/schedule.h"
#include "espalier/protocol/regions/shared_copy.h"

namespace espalier::regions {

class DecoupledServer final : public Conversation {
 public:
  /// `settings` with a decoupling. `model`: the shared copy before the first step, aligned.
  DecoupledServer(const Experiment& experiment, ServerSettings settings, Parameters model,
                  Run& run);

  void begin() override;
  void advance() override;
  Progress progress() const override { return state_.progress(); }
  Parameters* model() override { return &shared_.model(); }
  void end() override;
  std::string summary() const override { return state_.summary(); }
  void archive(Archive& archive) override;

 private:
  /// The last step at which fragments were chosen, and when a region reached it.
  struct Slot {
    std::int64_t step = 0;
    Nanoseconds time = 0;
  };
  /// A fragment that was chosen while its last exchange was still being merged.
  struct Waiting {
    std::int64_t fragment = 0, slot = 0;
  };
  /// What has reached a region and is dealt with after its present step: exchanges, by number.
  struct Inbox {
    std::vector<std::int64_t> asked, arrived;
  };

  const Fragment& fragment_of(const Exchange& exchange) const {
    return settings_.regions.fragments[static_cast<std::size_t>(exchange.fragment)];
  }
  std::vector<RegionTask::Sent> answers(std::int64_t region);
  void go_on();
  void send(std::int64_t region, RegionTask task);
  void finished(const Clock::Event& event);
  void hand_over(std::int64_t region, const Bytes& values);
  void leave(std::int64_t region, bool failed);
  void on_network(const Network::Event& event);
  void open_slots(std::int64_t step);
  void ask(std::int64_t fragment, std::int64_t slot);
  void settle(std::int64_t number);
  void begin_merge(Exchange& exchange);
  Nanoseconds grace() const;
  void merge(Exchange& exchange);
  void forget_finished();
  void record(const Exchange& exchange, std::int64_t region);
  void make_versions();

  const Experiment& experiment_;
  const ServerSettings settings_;
  Run& run_;
  SharedCopy shared_;
  Schedule schedule_;
  Network network_;
  Places places_;
  Exchanges exchanges_;
  std::vector<Waiting> waiting_;
  std::vector<Inbox> inboxes_;  // by region
  Counts state_;
  Slot slot_;
};

}  // namespace espalier::regions
