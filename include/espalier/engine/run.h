#pragma once
// A run on rank 0: its pool and records, the evaluations of its versions, the stops that the input
// sets, its checkpoints, its host time. All protocols use it, so all are evaluated, stopped and
// saved in the same way.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "espalier/base/archive.h"
#include "espalier/config/config.h"
#include "espalier/engine/evaluation.h"
#include "espalier/engine/pool.h"
#include "espalier/engine/real_time.h"
#include "espalier/record/run_file.h"
#include "espalier/train/experiment.h"

namespace espalier {

class Conversation;

struct RunSettings {
  EvaluationPlan evaluation;
  std::int64_t versions = 0;  ///< run.rounds
  std::int64_t evaluate_every = 1;
  bool evaluate_first = false;  ///< version 0
  std::int64_t checkpoint_every = 0;
  std::optional<double> target_accuracy{};
  std::optional<Nanoseconds> virtual_limit{};
};
/// run.target_accuracy, run.virtual_limit, checkpoint.every.
void declare_stop_options(OptionTable& table);
/// InputError if the model does not support a stop.
RunSettings run_settings(const Config& config, const Experiment& experiment);

/// Seconds of this process's steady clock, whose zero has no meaning.
double wall_seconds();

/// Adds its lifetime in host seconds to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum_s) : sum_s_(sum_s), start_(wall_seconds()) {}
  ~Stopwatch() { sum_s_ += wall_seconds() - start_; }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& sum_s_;
  double start_;
};

/// A new version of the model, for the progress line.
struct VersionReport {
  std::int64_t version = 0;
  Nanoseconds time = 0;
  double train_loss = 0;
};

/// Functions that a run calls at its events; each may be empty.
struct RunListeners {
  std::function<void(const VersionReport&)> on_version;
  std::function<void(const Evaluation&)> on_evaluation;
  std::function<void(const std::string&)> on_warning;
  /// Saves a version's checkpoint, whose content the function `content` archives.
  std::function<void(std::int64_t version, const std::function<void(Archive&)>& content)> save;
};

class Run {
 public:
  /// `real_time`: of a paced run, else null. All references must outlive the run.
  Run(const Experiment& experiment, RunSettings settings, Pool& pool, RunFile& records,
      const RealTime* real_time, RunListeners listeners);

  Pool& pool() { return pool_; }
  RunFile& records() { return records_; }
  const RealTime* real_time() const { return real_time_; }

  // For conversations:

  /// Whether the run ends here: at the last version, the virtual limit or the target accuracy.
  bool reached_a_stop(std::int64_t version, Nanoseconds now) const;
  /// Whether tasks that start from a new version may be sent before the version is evaluated.
  bool may_send_on(std::int64_t version, Nanoseconds now) const;
  /// Reports `model` as the new version, made at `now`: begins its evaluation if due, and waits for
  /// it if a stop depends on it. Returns whether the run continues. NotFiniteError if the loss is
  /// not finite.
  bool made_version(std::int64_t version, Nanoseconds now, const Parameters& model);
  void report(const VersionReport& report);
  void warn(const std::string& text);
  /// Calls `wait`, whose waits end with Pool::Interrupted when a stop is requested.
  void heed_stops(const std::function<void()>& wait);
  /// Measures the server's own work.
  Stopwatch busy() { return Stopwatch(busy_s_); }
  double busy_s() const { return busy_s_; }
  double saving_s() const { return saving_s_; }
  /// Host seconds so far, including those before a resume.
  double elapsed_s() const { return wall_seconds() - wall_start_; }

  // For the driver:

  void start();
  /// Evaluates version 0 if the input sets it; waits if a stop depends on it.
  void evaluate_first(Conversation& conversation);
  void take_evaluations();
  /// Waits for all evaluations, including one of the last version.
  void finish_evaluations(Conversation& conversation);
  bool checkpoint_is_due(std::int64_t version) const;
  void save_if_due(Conversation& conversation);
  /// Saves a last checkpoint; `interrupted`: in little time.
  void save_last(Conversation& conversation, bool interrupted);
  const std::optional<Evaluation>& last_evaluation() const { return last_evaluation_; }
  /// Saves the whole run with its conversation, or restores it, before start().
  void archive(Archive& archive, Conversation& conversation);

 private:
  bool is_last(std::int64_t version, Nanoseconds now) const;
  void wait_for_evaluations();
  void bring_statistics(Conversation& conversation, std::optional<double> patience_s);
  void save(Conversation& conversation);
  void archive_wall(Archive& archive, Conversation& conversation);

  const Experiment& experiment_;
  RunSettings settings_;
  Pool& pool_;
  RunFile& records_;
  const RealTime* real_time_;
  RunListeners listeners_;
  Evaluator evaluator_;
  std::optional<Evaluation> last_evaluation_;
  std::int64_t saved_version_ = 0;
  double elapsed_before_s_ = 0;  // before this process
  double wall_start_ = 0;
  double busy_s_ = 0;
  double saving_s_ = 0;
};

}  // namespace espalier
