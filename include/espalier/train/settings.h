#pragma once
// How clients train: the [train] section as values, and what follows from it alone (learning rate
// of a task, number of steps, size of each batch), so that server and client agree without a
// message.

#include <cstdint>
#include <string>

#include "espalier/config/config.h"

namespace espalier {

enum class Schedule { constant, step };

struct TrainSettings {
  std::int64_t epochs = 1;
  std::int64_t steps = 0;  ///< > 0 replaces epochs
  std::int64_t batch = 20;
  double lr = 0.05;
  double momentum = 0;
  bool nesterov = false;
  double weight_decay = 0;
  double clip = 0;  ///< largest gradient norm; 0: no clipping
  Schedule schedule = Schedule::constant;
  std::int64_t step_every = 0;  ///< versions between two decays; 0: half of run.horizon
  double decay = 0.1;
};

/// Declares the [train] options.
void declare_train_options(OptionTable& table);
/// `horizon`: the number of versions that schedules refer to.
TrainSettings train_settings(const Config& config, std::int64_t horizon);

/// The learning rate of a task that starts from `base_version`.
double learning_rate(const TrainSettings& settings, std::int64_t base_version);

/// What one task of a client with `samples` samples does. Batches run through whole epochs; the
/// last batch of an epoch may be smaller.
struct Workload {
  std::int64_t steps = 0;
  std::int64_t samples = 0;     ///< seen, counting repeats
  std::int64_t full_steps = 0;  ///< steps of a whole batch
  std::int64_t rest = 0;        ///< size of an epoch's last, smaller batch; 0 if there is none
};
Workload workload(const TrainSettings& settings, std::int64_t samples);

}  // namespace espalier
