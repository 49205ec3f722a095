#pragma once
// The server of `rounds`: sends tasks, handles answers in the order of the clock, merges when the
// window closes, records. A task has effects only once the clock returns its answer, however early
// a rank finished it, so results do not depend on ranks.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "espalier/engine/clock.h"
#include "espalier/engine/faults.h"
#include "espalier/engine/protocol.h"
#include "espalier/protocol/rounds/clients.h"
#include "espalier/protocol/rounds/payloads.h"
#include "espalier/protocol/rounds/recorder.h"
#include "espalier/protocol/rounds/rules.h"
#include "espalier/protocol/rounds/task_costs.h"
#include "espalier/protocol/rounds/window.h"

namespace espalier::rounds {

/// The server's settings from the input. Built before anything is written, because this reports
/// errors of the input.
struct ServerSettings {
  WindowSettings window;
  Sampler sampler;
  Faults faults;
  Availability availability;
  ClockSettings clock;
  bool record_agreement = false;
};
/// Throws the InputError and DataError (a trace that cannot be read) of its parts. `experiment`
/// must outlive it.
ServerSettings server_settings(const Config& config, const Experiment& experiment);

class RoundsServer final : public Conversation {
 public:
  /// `model`: the global model before round 0, aligned.
  RoundsServer(const Experiment& experiment, ServerSettings settings, ServerRules rules,
               Parameters model, Run& run);

  void begin() override;
  void advance() override;
  Progress progress() const override { return {state_.version, window_.opened(), state_.now}; }
  Parameters* model() override { return &model_; }
  void end() override;
  std::string summary() const override { return recorder_.traffic(); }
  void archive(Archive& archive) override;
  void archive_wall(Archive& archive) override;

 private:
  struct State {
    Nanoseconds now = 0;
    std::int64_t version = 0;
    std::int64_t next_task = 0;
    std::int64_t sent_tasks = 0;      // of this version
    std::int64_t failed_windows = 0;  // consecutive
    bool tasks_due = true;            // no new task was sent since the window opened
  };

  void top_up();
  bool takes_peers(std::int64_t client, const Assignment& assigned);
  void send(std::int64_t client);
  void deliver(Clock::Event event);
  bool handle(Clock::Event event);
  void adopt_submodel(Delivered& delivered);
  void observe(const Delivered& delivered);
  void release_waiting();
  void close_window();
  std::vector<Update> merge();
  void wait_for_client();
  void refuse_failed_window();
  Clients::Moment moment() const;
  std::vector<Flight> earlier_flights() const;
  void archive_tasks(Archive& archive);

  const Experiment& experiment_;
  ServerRules rules_;
  Run& run_;
  Parameters model_;  // its norm statistics are of this version, or missing
  Window window_;
  Faults faults_;
  Clients clients_;
  TaskCosts costs_;
  Payloads payloads_;
  RoundRecorder recorder_;
  std::unique_ptr<Clock> clock_;
  std::unordered_map<std::int64_t, SentTask> out_;  // of the clock's flights, by number
  std::vector<Flight> to_resend_;                   // of out_, after a restore
  std::vector<Delivered> delivered_;                // in this window, in order of events
  State state_;
};

}  // namespace espalier::rounds
