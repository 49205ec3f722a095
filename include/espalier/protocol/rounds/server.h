#pragma once
// The server of `rounds`: sends tasks, takes each answer when the clock gives it, merges when the
// window closes, records. A task's effects exist only once its answer is given, however early a
// rank finished it, so results do not depend on ranks.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "espalier/device/availability.h"
#include "espalier/engine/clock.h"
#include "espalier/engine/evaluation.h"
#include "espalier/engine/pool.h"
#include "espalier/model/cost.h"
#include "espalier/protocol/rounds/client_job.h"
#include "espalier/protocol/rounds/faults.h"
#include "espalier/protocol/rounds/rules.h"
#include "espalier/protocol/rounds/sampling.h"
#include "espalier/protocol/rounds/window.h"
#include "espalier/record/outcome.h"
#include "espalier/record/run_file.h"
#include "espalier/train/task_cost.h"

namespace espalier::rounds {

/// What a finished round looks like to whoever prints progress.
struct RoundReport {
  std::int64_t round = 0;
  std::int64_t version = 0;
  Nanoseconds time = 0;
  std::int64_t updates_merged = 0;
  double train_loss = 0;
};

/// What a run amounts to.
struct RunSummary {
  std::int64_t rounds = 0;
  std::int64_t version = 0;
  Nanoseconds time = 0;
  std::int64_t bytes_up = 0;
  std::int64_t bytes_down = 0;
  std::optional<Evaluation> last;
  std::optional<std::string> stopped;  ///< why the run ended early, if it did
};

/// What the input says of the server, as values. Built before anything is written, because what is
/// wrong with the input shows here.
struct ServerSettings {
  WindowSettings window;
  Sampler sampler;
  Faults faults;
  Availability availability;
  ClockSettings clock;
  EvaluationPlan evaluation;
  std::int64_t evaluate_every = 1;
  bool evaluate_first = false;  ///< version 0
  std::int64_t checkpoint_every = 0;
  std::optional<double> target_accuracy;
  std::optional<Nanoseconds> virtual_limit;
};
/// InputError and DataError (a trace that cannot be read) as its parts say. `experiment` must
/// outlive it.
ServerSettings server_settings(const Config& config, const Experiment& experiment);
/// InputError where a first task with the whole model would take a device's link or processor, or
/// the server's, more than 100 years: a slip of units, which otherwise shows when tasks are sent.
void refuse_endless_tasks(const Experiment& experiment, const LocalObjective& objective,
                          const ServerSettings& settings);

/// A task from its sending to its merge; the clock has its flight.
struct SentTask {
  ClientTask task;
  std::shared_ptr<const BufferLayout> buffer_layout;  ///< dense
  SharedBytes payload;
  double share = 1;
  InjectedFault fault;
};
/// Sets what of a flight follows from its task alone: number, endpoint, whether it is answered, and
/// what taking its answer in costs the server.
void set_identity(Flight& flight, const SentTask& sent);

/// Bytes of an answer's head, without the client's state.
std::int64_t answer_bytes();
/// Seconds on this process's clock, from some moment on.
double wall_seconds();

/// Stops beside run.rounds: run.target_accuracy, run.virtual_limit; checkpoint.every.
void declare_server_options(OptionTable& table);

class RoundsServer {
 public:
  /// `model`: the global model before round 0, aligned. `real_time`: of a paced run, else null.
  RoundsServer(const Experiment& experiment, ServerSettings settings, ServerRules rules, Pool& pool,
               RunFile& records, Parameters model, const RealTime* real_time);

  std::function<void(const RoundReport&)> on_round;
  std::function<void(const Evaluation&)> on_evaluation;
  /// The first failure of its kind on a class of devices, in one sentence.
  std::function<void(const std::string&)> on_failure;
  /// It is time to save: at this version, between two events.
  std::function<void(std::int64_t version)> on_checkpoint;

  /// From the beginning, or from what archive() restored, to the end or to a request to stop.
  RunSummary run();
  std::int64_t version() const { return version_; }
  /// Seconds of work so far, those before a resume included.
  double elapsed_s() const { return wall_seconds() - wall_start_; }
  /// Everything that run() needs to go on. Before run(), or within on_checkpoint.
  void archive(Archive& archive);

 private:
  enum class Phase { search, training };
  /// A task that is out, as checkpoints have it.
  struct InFlight {
    SentTask sent;
    Flight flight;
  };
  struct Delivered {
    SentTask sent;
    Flight flight;
    Arrival arrival;  // empty if the client did not answer
    Outcome outcome = Outcome::merged;
    std::int64_t staleness = 0;
    double weight = 0;
    bool waiting = false;  // its client gets no new work before the merge
  };

  void advance();
  void heed_stops(const std::function<void()>& wait);
  void wait_for_evaluations();
  void finish_evaluations();
  void bring_statistics(std::optional<double> patience_s = {});
  bool checkpoint_is_due() const;
  void save_if_due();
  void archive_clients(Archive& archive);
  void archive_tasks(Archive& archive);
  void archive_wall(Archive& archive);
  void top_up();
  void send(std::int64_t client);
  std::int64_t next_task_of(std::int64_t client) const {
    return tasks_of_[static_cast<std::size_t>(client)];
  }
  SendMoment moment_of(std::int64_t client) const {
    return {client, next_task_of(client), version_};
  }
  std::int64_t furthest_task() const;
  bool has_memory(std::int64_t client) const;
  bool is_available(std::int64_t client) const;
  std::optional<Nanoseconds> next_return() const;
  void wait_for_client();
  void charge(const SentTask& sent, const Submodel& trained, Flight& flight);
  void adopt_submodel(Delivered& delivered);
  void deliver(Clock::Event event);
  void tell_failure(const Delivered& delivered);
  void release(std::int64_t client) { idle_.insert(client); }
  void release_waiting();
  void close_window();
  void record_round(std::span<const Update> updates);
  void record_unfinished();
  void take_evaluations();
  bool reached_a_stop() const;
  void refuse_failed_window();
  SharedBytes payload_for(const Submodel& submodel, const BufferLayout& dense);
  const TrainingCost& cost_of(Phase phase, const Submodel& submodel, std::int64_t batch);

  const Experiment& experiment_;
  ServerRules rules_;
  Pool& pool_;
  RunFile& records_;
  Evaluator evaluator_;
  Parameters model_;  // its norm statistics are those of this version, or of none
  Window window_;
  Sampler sampler_;
  Faults faults_;
  Availability availability_;
  std::int64_t evaluate_every_;
  bool evaluate_first_;  // version 0
  std::int64_t checkpoint_every_;
  std::optional<double> target_accuracy_;
  std::optional<Nanoseconds> virtual_limit_;

  Nanoseconds now_ = 0;
  std::int64_t version_ = 0;
  std::int64_t next_task_ = 0;
  std::int64_t failed_windows_ = 0;  // times in a row that everybody at work failed
  std::set<std::int64_t> idle_;
  std::unordered_map<std::int64_t, Nanoseconds> away_until_;  // clients that vanished
  std::vector<std::int64_t> tasks_of_;                        // sent so far, per client
  std::unordered_map<std::int64_t, Bytes> states_;
  std::unordered_map<std::int64_t, Submodel>
      too_large_;                                   // what a client last ran out of memory with
  std::set<std::pair<std::string, Outcome>> told_;  // failures, by class of devices
  std::unique_ptr<Clock> clock_;
  std::unordered_map<std::int64_t, SentTask> out_;  // of the clock's flights, by number
  std::vector<Delivered> delivered_;                // in this window, in order of events
  // Payloads of the current version, by submodel.
  std::unordered_map<std::uint64_t, std::pair<Submodel, SharedBytes>> payloads_;
  std::map<std::tuple<Phase, std::uint64_t, std::int64_t>, TrainingCost> costs_;  // by batch
  bool tasks_due_ = false;           // a window closed, and nobody has been sent new work yet
  std::vector<InFlight> in_flight_;  // of a checkpoint, to be sent again
  bool is_restored_ = false;
  std::int64_t saved_version_ = 0;
  double elapsed_before_s_ = 0;  // before this process
  double wall_start_ = 0;
  double busy_s_ = 0;
  double saving_s_ = 0;
  std::optional<Evaluation> last_evaluation_;
  RunSummary summary_;
};

}  // namespace espalier::rounds
