#pragma once
// The conversation of `regions`. Every region follows its own time: it trains to the next step at
// which something is sent or applied, and waits only for a fragment that is due and has not
// arrived. A merge happens when every region that is present has sent its fragment; without faults
// the shared copy depends on steps alone, not on times. A region that fails takes the shared copy
// when it is back, and goes on at the step of the foremost region.

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "espalier/engine/clock.h"
#include "espalier/engine/faults.h"
#include "espalier/engine/protocol.h"
#include "espalier/protocol/regions/exchange.h"
#include "espalier/protocol/regions/network.h"
#include "espalier/protocol/regions/schedule.h"
#include "espalier/protocol/regions/shared_copy.h"

namespace espalier::regions {

enum class Weights { uniform, samples, tokens };

struct ServerSettings {
  RegionSettings regions;
  ScheduleSettings schedule;
  OuterSettings outer;
  Topology topology = Topology::star;
  Weights weights = Weights::uniform;
  bool lock_step = false;  ///< every step takes as long as the slowest region's
  Faults faults;
  double lost = 0;  ///< fraction of messages that are lost
  ClockSettings clock;
};
/// regions.topology, regions.weights, regions.lock_step, faults.lost.
void declare_server_options(OptionTable& table);
/// InputError if settings contradict each other, or a region has too little memory.
ServerSettings server_settings(const Config& config, const Experiment& experiment);

/// Upper bound of the memory of a region with batches of `batch` samples.
std::int64_t region_bytes(const Experiment& experiment, const RegionSettings& settings,
                          std::int64_t batch);
/// The training steps of a region after step `begin`, up to step `end`, by size of batch.
std::vector<Workload::Passes> passes_between(const Experiment& experiment, std::int64_t region,
                                             std::int64_t begin, std::int64_t end);

class RegionsServer final : public Conversation {
 public:
  /// `model`: the shared copy before the first step, aligned.
  RegionsServer(const Experiment& experiment, ServerSettings settings, Parameters model, Run& run);

  void begin() override;
  void advance() override;
  Progress progress() const override { return {state_.version, state_.made, state_.now}; }
  Parameters* model() override { return &shared_.model(); }
  void end() override;
  std::string summary() const override;
  void archive(Archive& archive) override;

 private:
  struct State {
    std::int64_t version = 0;
    Nanoseconds made = 0, now = 0;
    std::int64_t next_exchange = 0, next_job = 0;
    double period_loss = 0;  // of the last period that a region ended
    std::int64_t bytes_up = 0, bytes_down = 0;
  };
  /// A region.
  struct Place {
    std::int64_t step = 0;        // reached
    Nanoseconds time = 0;         // at which it was reached, or at which its job began
    std::int64_t is_present = 1;  // 0: it crashed or is away
    std::int64_t joins = 1;       // how often it took the whole shared copy
    std::int64_t must_join = 1;   // the next job brings the shared copy
    // Its outstanding job:
    std::int64_t job = -1;     // number; -1: none
    std::int64_t is_lost = 0;  // the region fails before its end
    RegionTask task;
    SharedBytes payload;
    // Of the present period:
    std::int64_t steps = 0, lost_steps = 0, samples = 0, tokens = 0;
    double loss_sum = 0;
    Nanoseconds computed = 0, stalled = 0;
    std::int64_t peak_bytes = 0;
    std::vector<std::int64_t> tokens_since;  // by fragment: since its last exchange
  };

  std::int64_t regions() const { return std::ssize(places_); }
  Place& place(std::int64_t region) { return places_[static_cast<std::size_t>(region)]; }
  const Place& place(std::int64_t region) const {
    return places_[static_cast<std::size_t>(region)];
  }
  const Fragment& fragment_of(const Exchange& exchange) const {
    return settings_.regions.fragments[static_cast<std::size_t>(exchange.fragment)];
  }
  std::int64_t period_of(std::int64_t step) const { return step / settings_.schedule.period; }
  std::int64_t last_step() const { return experiment_.rounds * settings_.schedule.period; }

  std::optional<std::int64_t> failing_step(std::int64_t region, std::int64_t step) const;
  std::int64_t next_stop(std::int64_t region, std::int64_t step) const;
  std::vector<Exchange*> due(std::int64_t region, std::int64_t step);
  std::vector<RegionTask::Sent> sendings(std::int64_t region, std::int64_t step);
  void open_exchange(int fragment, std::int64_t step);
  void go_on(std::int64_t region, Nanoseconds now);
  Job job_of(std::int64_t region) const;
  Flight flight_of(std::int64_t region) const;
  Nanoseconds work_time(std::int64_t region, std::int64_t begin, std::int64_t end) const;
  void finished(Clock::Event event);
  void pass(std::int64_t region, std::int64_t step, bool trained);
  void end_period(std::int64_t region);
  void hand_over(std::int64_t region, const Bytes& values);
  void leave(std::int64_t region);
  void join(std::int64_t region);
  void on_network(const Network::Event& event);
  void begin_merge(std::int64_t number);
  void merge(Exchange& exchange);
  double weight_of(const Exchange& exchange, std::int64_t region) const;
  void on_merged(std::int64_t number);
  void wake(std::int64_t number, std::int64_t region);
  void forget_finished();
  void record_unapplied(const Exchange& exchange);
  void record(const Exchange& exchange, std::int64_t region, Nanoseconds reached);
  void make_versions();
  static void archive_place(Archive& archive, Place& place);

  const Experiment& experiment_;
  ServerSettings settings_;
  Run& run_;
  SharedCopy shared_;
  Schedule schedule_;
  Network network_;
  std::unique_ptr<Clock> clock_;
  std::vector<Place> places_;
  std::map<std::int64_t, Exchange> exchanges_;               // by number
  std::map<std::int64_t, std::vector<std::int64_t>> slots_;  // exchanges decided, by step
  State state_;
};

}  // namespace espalier::regions
