#pragma once
// Evaluations of the global model, spread over the ranks while training goes on: for each version,
// first the norm statistics (where the model has any), then the test set; sums are combined in
// batch order in double, so the result does not depend on ranks. They cost no virtual time.

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "espalier/protocol/rounds/pool.h"
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

class Evaluator {
 public:
  Evaluator(const Experiment& experiment, const EvaluationPlan& plan, Pool& pool);

  /// Begins the evaluation of `model` as it is now (copied).
  void start(std::int64_t version, Nanoseconds time, const Parameters& model);
  /// The next finished evaluation in order of version, one item for each set; empty if there is
  /// none.
  std::vector<Evaluation> next();
  bool pending() const { return !running_.empty(); }
  bool pending(std::int64_t version) const { return running_.contains(version); }
  /// Those under way; restored, they begin anew. `model` lends its geometry.
  void archive(Archive& archive, const Parameters& model);
  /// The calibrated model of the last evaluation handed out by next(): statistics in place.
  const Parameters& last_model() const { return last_model_; }

 private:
  struct Running {
    Nanoseconds time = 0;
    Parameters model;
    std::vector<std::vector<float>> statistics;
    std::int64_t calibrated = 0;                    // batches
    std::vector<std::vector<EvaluationSums>> sums;  // by batch, then by set
    std::int64_t evaluated = 0;                     // batches
  };
  void take(const Shard& shard, ShardKind kind, const SharedBytes& payload);
  void send(std::int64_t version, Running& running, ShardKind kind);
  Evaluation combined(const Running& running, std::size_t set) const;

  const Experiment& experiment_;
  EvaluationPlan plan_;
  Pool& pool_;
  std::map<std::int64_t, Running> running_;  // by version
  Parameters last_model_;
};

}  // namespace espalier
