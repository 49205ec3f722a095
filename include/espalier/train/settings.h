#pragma once
// How clients train: the [train] section as values, and the values computed from it (learning rate
// of a task, number of steps, size of each batch). Server and client compute the same values
// without a message.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "espalier/config/config.h"

namespace espalier {

enum class OptimizerKind { sgd, adam, adamw, adan, rmsprop };
enum class OptimizerState { reset, keep };
enum class Schedule { constant, step, exponential, cosine };

struct TrainSettings {
  std::int64_t epochs = 1;
  std::int64_t steps = 0;  ///< > 0 replaces epochs
  std::int64_t batch = 20;
  std::int64_t accumulate = 1;  ///< parts of a batch that pass one after the other
  double label_smoothing = 0;

  OptimizerKind optimizer = OptimizerKind::sgd;
  OptimizerState optimizer_state = OptimizerState::reset;
  double lr = 0.05;
  double momentum = 0;
  bool nesterov = false;
  double weight_decay = 0;
  double beta1 = 0;  ///< adam, adamw, adan; a beta is the fraction that is kept
  double beta2 = 0;
  double beta3 = 0;        ///< adan
  double alpha = 0;        ///< rmsprop
  double epsilon = 0;      ///< all but sgd
  double clip = 0;         ///< largest gradient norm; 0: no clipping
  double group_lasso = 0;  ///< penalties (penalty.h); 0: none
  double scale_l1 = 0;

  Schedule schedule = Schedule::constant;
  std::int64_t horizon = 0;     ///< versions that the schedule spans, warm-up included
  std::int64_t warmup = 0;      ///< versions
  std::int64_t step_every = 0;  ///< step, exponential: versions between two decays
  double decay = 0.1;           ///< step, exponential
  double final_share = 0;       ///< cosine: fraction of lr at the horizon
};

/// Declares the [train] options.
void declare_train_options(OptionTable& table);
/// `horizon`: number of versions of a schedule. Throws InputError if options contradict each other.
TrainSettings train_settings(const Config& config, std::int64_t horizon);

/// The learning rate of a task that starts from version v: lr x warm-up x schedule, where the
/// warm-up of W versions is min(1, (v + 1) / (W + 1)) and p = max(0, v - W) counts the versions
/// after it:
///   step         decay ^ floor(p / step_every)
///   exponential  decay ^ (p / step_every)
///   cosine       f + (1 - f) (1 + cos(pi min(1, p / (horizon - W)))) / 2, f = final_share
///                (Loshchilov and Hutter 2017, without restarts)
double learning_rate(const TrainSettings& settings, std::int64_t base_version);

/// Samples of a part, if a batch of `batch` samples has settings.accumulate parts; the last part of
/// a batch may be smaller.
std::int64_t part_size(const TrainSettings& settings, std::int64_t batch);

/// The steps and passes of a task of a client with `samples` samples. The last batch of an epoch
/// may be smaller than the others.
struct Workload {
  struct Passes {
    std::int64_t size = 0;  ///< samples
    std::int64_t count = 0;
    friend bool operator==(const Passes&, const Passes&) = default;
  };
  std::int64_t steps = 0;    ///< steps of the optimiser
  std::int64_t samples = 0;  ///< samples of all steps, with repeats
  /// Forward and backward passes, by descending size.
  std::vector<Passes> passes;
};
/// The passes of steps with batches of these sizes, of which `batch` is the full one.
std::vector<Workload::Passes> passes_of(const TrainSettings& settings, std::int64_t batch,
                                        std::initializer_list<Workload::Passes> steps);
Workload workload(const TrainSettings& settings, std::int64_t batch, std::int64_t samples);
/// Of the first `steps` steps of any number of epochs.
Workload first_steps(const TrainSettings& settings, std::int64_t batch, std::int64_t samples,
                     std::int64_t steps);

}  // namespace espalier
