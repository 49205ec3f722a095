#pragma once
// Evaluations of the global model, spread over the ranks while training goes on: for each version,
// first the norm statistics (where the model lacks them), then the test set; sums are combined in
// batch order in double, so the result does not depend on ranks. They cost no virtual time. A
// checkpoint needs the statistics alone, and waits for them: those shards go before all else.

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
  /// Shares of the samples whose class is the likeliest, or among the five likeliest; of a language
  /// model, which has none, not a number.
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

  /// Begins the evaluation of `model` as it is now (copied). It is calibrated first where it lacks
  /// statistics.
  void start(std::int64_t version, Nanoseconds time, const Parameters& model);
  /// Begins to compute the norm statistics of `model`, before the ranks do anything else; nothing
  /// where they are known.
  void calibrate(std::int64_t version, const Parameters& model);
  /// The latest version's model with its statistics in place; null while they are not known. Good
  /// until anything else is called.
  const Parameters* calibrated(std::int64_t version) const;
  /// The next finished evaluation in order of version, one item for each set; empty if there is
  /// none.
  std::vector<Evaluation> next();
  bool pending() const { return !running_.empty(); }
  bool pending(std::int64_t version) const {
    const auto known = running_.find(version);
    return known != running_.end() && known->second.is_evaluated;
  }
  /// Those under way. `model` lends its buffer layout.
  void archive(Archive& archive, const Parameters& model);
  /// Begins again those that were restored.
  void resume();

 private:
  struct Running {
    Nanoseconds time = 0;
    Parameters model;
    bool is_evaluated = false;                      // or calibrated only
    bool is_sent = false;                           // its calibration
    bool is_urgent = false;                         // the same
    bool is_calibrated = false;                     // the model has its statistics, or needs none
    std::vector<std::vector<double>> moments;       // by calibration batch; empty until it is here
    std::vector<std::vector<EvaluationSums>> sums;  // by batch, then by set
    std::int64_t evaluated = 0;                     // batches
  };
  void take_sums(const Answer& answer);
  void take_moments(const Answer& answer);
  void begin(std::int64_t version, Running& running);
  Running& hold(std::int64_t version, const Parameters& model);
  void calibrate(std::int64_t version, Running& running, bool urgent);
  void send(std::int64_t version, const Running& running, JobKind kind);
  void retire(std::map<std::int64_t, Running>::iterator done);
  Evaluation combined(const Running& running, std::size_t set) const;

  const Experiment& experiment_;
  EvaluationPlan plan_;
  Pool& pool_;
  std::map<std::int64_t, Running> running_;  // by version
  std::int64_t last_version_ = -1;           // of those that were removed
  Parameters last_model_;
};

}  // namespace espalier
