#pragma once
// The conversation of `regions` whose fragments are merged at fixed steps. Every region follows its
// own time: it trains to the next step at which something is sent or applied, and waits only for a
// fragment that is due and has not arrived. A merge happens when every region that is present has
// sent its fragment; without faults the shared copy depends on steps alone, not on times. A region
// that fails takes the shared copy when it is back, and goes on at the step of the foremost region.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "espalier/engine/protocol.h"
#include "espalier/protocol/regions/counts.h"
#include "espalier/protocol/regions/exchange.h"
#include "espalier/protocol/regions/network.h"
#include "espalier/protocol/regions/places.h"
#include "espalier/protocol/regions/replica_mean.h"
#include "espalier/protocol/regions/schedule.h"
#include "espalier/protocol/regions/shared_copy.h"

namespace espalier::regions {

class RegionsServer final : public Conversation {
 public:
  /// `model`: the shared copy before the first step, aligned.
  RegionsServer(const Experiment& experiment, ServerSettings settings, Parameters model, Run& run);

  void begin() override;
  void advance() override;
  Progress progress() const override { return state_.progress(); }
  Parameters* model() override { return &shared_.model(); }
  void end() override;
  std::string summary() const override { return state_.summary(); }
  void archive(Archive& archive) override;

 private:
  const Fragment& fragment_of(const Exchange& exchange) const {
    return settings_.regions.fragments[static_cast<std::size_t>(exchange.fragment)];
  }
  std::int64_t applied_step(const Exchange& exchange) const {
    return exchange.slot + settings_.schedule.overlap;
  }
  std::int64_t period_of(std::int64_t step) const { return step / settings_.schedule.period; }
  std::int64_t last_step() const { return experiment_.rounds * settings_.schedule.period; }

  std::int64_t next_stop(std::int64_t region, std::int64_t step) const;
  std::vector<Exchange*> due(std::int64_t region, std::int64_t step);
  std::vector<RegionTask::Sent> sendings(std::int64_t region, std::int64_t step);
  void open_exchange(int fragment, std::int64_t step);
  void go_on(std::int64_t region, Nanoseconds now);
  void finished(const Clock::Event& event);
  void hand_over(std::int64_t region, const Bytes& values, std::size_t first);
  void leave(std::int64_t region, bool failed);
  void join(std::int64_t region);
  void on_network(const Network::Event& event);
  void begin_merge(std::int64_t number);
  void merge(Exchange& exchange);
  void on_merged(std::int64_t number);
  void wake(std::int64_t number, std::int64_t region);
  void forget_finished();
  void record(const Exchange& exchange, std::int64_t region, Nanoseconds reached);
  void record_unapplied(const Exchange& exchange);
  void make_versions();

  const Experiment& experiment_;
  const ServerSettings settings_;
  Run& run_;
  SharedCopy shared_;
  Schedule schedule_;
  Network network_;
  Places places_;
  Exchanges exchanges_;
  std::map<std::int64_t, std::vector<std::int64_t>> slots_;  // exchanges decided, by step
  ReplicaMean replicas_;
  Counts state_;
};

}  // namespace espalier::regions
