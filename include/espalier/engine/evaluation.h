#pragma once
// Evaluations of the global model, spread over the ranks during training: for each version, first
// the norm statistics (if the model lacks them), then the test set. Sums are combined in batch
// order in double, so the result does not depend on ranks. Evaluations cost no virtual time. A
// checkpoint waits for the statistics alone, so their shards go before all other jobs.

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/engine/pool.h"
#include "espalier/train/evaluate.h"

namespace espalier {

struct Evaluation {
  std::int64_t version = 0;
  Nanoseconds time = 0;
  std::string set = "test";  ///< evaluated_sets()
  double loss = 0;
  /// Fractions of the samples whose class is the most likely one, or among the five most likely;
  /// not a number for a language model.
  double top1 = kNone;
  double top5 = kNone;
  /// Of a language model: the exponential of the loss.
  double perplexity = kNone;

  static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
};

/// Shards of calibrations and evaluations: ranges of batches of one version.
void add_evaluation_jobs(JobKinds& kinds, const Experiment& experiment, const EvaluationPlan& plan);

class Evaluator {
 public:
  Evaluator(const Experiment& experiment, const EvaluationPlan& plan, Pool& pool);

  /// Begins the evaluation of a copy of `model`. The copy is calibrated first if it lacks
  /// statistics.
  void start(std::int64_t version, Nanoseconds time, const Parameters& model);
  /// Begins to compute the norm statistics of `model`, before all other jobs. Does nothing if they
  /// exist already.
  void calibrate(std::int64_t version, const Parameters& model);
  /// The model of the version with its norm statistics; null while these are not computed, and of
  /// a model that has none. Valid until the next call of another function.
  const Parameters* calibrated(std::int64_t version) const;
  /// The next finished evaluation in order of version, one item for each set; empty if there is
  /// none.
  std::vector<Evaluation> next();
  bool pending() const { return !running_.empty(); }
  bool pending(std::int64_t version) const {
    const auto item = running_.find(version);
    return item != running_.end() && item->second.is_evaluated;
  }
  /// Saves unfinished evaluations. `model` has the buffer layout of their models.
  void archive(Archive& archive, const Parameters& model);
  /// Begins the restored evaluations again.
  void resume();

 private:
  struct Running {
    Nanoseconds time = 0;
    // The model, in one of two forms, because models may be large: as its jobs get it, or with
    // norm statistics.
    SharedBytes values;
    Parameters model;
    bool is_evaluated = false;                      // false: only calibrated
    bool is_sent = false;                           // its calibration was sent
    bool is_urgent = false;                         // its calibration was sent as urgent
    bool is_calibrated = false;                     // the model has its statistics, or needs none
    std::vector<std::vector<double>> moments;       // by calibration batch; empty until it arrives
    std::vector<std::vector<EvaluationSums>> sums;  // by batch, then by set
    std::int64_t evaluated = 0;                     // batches
  };
  void take_sums(const Answer& answer);
  void take_moments(const Answer& answer);
  void begin(std::int64_t version, Running& running);
  Running& hold(std::int64_t version, const Parameters& model);
  void calibrate(std::int64_t version, Running& running, bool urgent);
  void send(std::int64_t version, const Running& running, JobKind kind);
  SharedBytes values_of(const Parameters& model) const;
  SharedBytes values_of(const Running& running) const;
  Parameters model_of(const Running& running, const Parameters& like) const;
  void retire(std::map<std::int64_t, Running>::iterator done);
  Evaluation combined(const Running& running, std::size_t set) const;

  const Experiment& experiment_;
  EvaluationPlan plan_;
  Pool& pool_;
  std::map<std::int64_t, Running> running_;  // by version
  std::int64_t last_version_ = -1;           // of the last evaluation that was removed
  Parameters last_model_;
};

}  // namespace espalier
