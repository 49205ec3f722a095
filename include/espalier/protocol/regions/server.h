#pragma once
// The conversation of `regions`. Every region follows its own time: it trains to the next step at
// which something is sent or applied, and waits only for a fragment that is due and has not
// arrived. A merge happens when the fragment of every region has arrived; the shared copy that it
// makes depends on steps alone, not on times or ranks.

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "espalier/engine/clock.h"
#include "espalier/engine/protocol.h"
#include "espalier/protocol/regions/network.h"
#include "espalier/protocol/regions/outer.h"
#include "espalier/protocol/regions/region.h"
#include "espalier/protocol/regions/schedule.h"

namespace espalier::regions {

enum class Weights { uniform, samples, tokens };

struct ServerSettings {
  RegionSettings regions;
  ScheduleSettings schedule;
  OuterSettings outer;
  Topology topology = Topology::star;
  Weights weights = Weights::uniform;
  bool lock_step = false;  ///< every step takes as long as the slowest region's
  ClockSettings clock;
};
/// regions.topology, regions.weights, regions.lock_step.
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
  Progress progress() const override { return {version_, made_, now_}; }
  Parameters* model() override { return &model_; }
  void end() override;
  std::string summary() const override;
  void archive(Archive& archive) override;

 private:
  /// A fragment on its way: one value of each kind for each region.
  struct Exchange {
    std::int64_t number = 0, fragment = 0, sent_step = 0, applied_step = 0;
    std::vector<std::int64_t> handed;   // emulated time; -1: not yet
    std::vector<std::int64_t> arrived;  // of the merged values
    std::vector<std::int64_t> applied;
    std::vector<std::int64_t> tokens;  // that the region trained since its last exchange of it
    std::vector<double> norms, weights;
    std::vector<Bytes> values;  // encoded, until the merge
    std::int64_t received = 0;  // regions whose values the server has
    Bytes merged;               // empty before the merge
  };
  struct Place {
    std::int64_t step = 0;   // reached
    Nanoseconds time = 0;    // at which it was reached, or at which its job began
    std::int64_t joins = 1;  // > 0: the next job brings the whole shared copy
    // Its outstanding job:
    std::int64_t job = -1;  // number; -1: none
    RegionTask task;
    SharedBytes payload;
    // Of the present period:
    std::int64_t samples = 0, tokens = 0;
    double loss_sum = 0;
    Nanoseconds computed = 0, stalled = 0;
    std::vector<std::int64_t> tokens_since;  // by fragment: since its last exchange
  };

  std::int64_t regions() const { return std::ssize(places_); }
  std::int64_t last_step() const { return experiment_.rounds * settings_.schedule.period; }
  std::int64_t next_stop(std::int64_t step) const;
  std::vector<Exchange*> due(std::int64_t region, std::int64_t step);
  std::vector<RegionTask::Sent> sendings(std::int64_t region, std::int64_t step);
  void go_on(std::int64_t region, Nanoseconds now);
  Job job_of(std::int64_t region) const;
  Flight flight_of(std::int64_t region) const;
  Nanoseconds work_time(std::int64_t region, std::int64_t begin, std::int64_t end) const;
  void finished(Clock::Event event);
  void hand_over(std::int64_t region, const Bytes& values);
  void on_network(const Network::Event& event);
  void merge(Exchange& exchange);
  double weight_of(const Exchange& exchange, std::int64_t region) const;
  void step_along(const Fragment& fragment, std::int64_t step, std::span<const float> gradient);
  void wake(std::int64_t number, std::int64_t region);
  void record(const Exchange& exchange, std::int64_t region, Nanoseconds reached);
  void end_period(std::int64_t region, std::int64_t peak_bytes);
  void make_versions();
  void archive_exchange(Archive& archive, Exchange& exchange);
  void archive_inner(Archive& archive);
  static void archive_place(Archive& archive, Place& place);

  const Experiment& experiment_;
  ServerSettings settings_;
  Run& run_;
  Parameters model_;  // the shared copy
  Schedule schedule_;
  std::vector<OuterOptimizer> outer_;
  std::optional<Optimizer> inner_;  // of the shared copy, if gradients are exchanged
  Network network_;
  std::unique_ptr<Clock> clock_;
  std::vector<Place> places_;
  std::map<std::int64_t, Exchange> exchanges_;               // by number
  std::map<std::int64_t, std::vector<std::int64_t>> slots_;  // exchanges decided, by step
  std::int64_t next_exchange_ = 0, next_job_ = 0;
  std::int64_t version_ = 0;
  Nanoseconds made_ = 0, now_ = 0;
  double period_loss_ = 0;  // of the last period that a region ended
  std::int64_t bytes_up_ = 0, bytes_down_ = 0;
};

}  // namespace espalier::regions
