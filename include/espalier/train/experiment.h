#pragma once
// The experiment that the input file describes: model, data, the samples and the device of each
// client, the training settings. Every rank builds it for itself, and it is equal on all ranks.

#include <cstdint>
#include <memory>
#include <optional>

#include "espalier/config/config.h"
#include "espalier/data/dataset.h"
#include "espalier/data/partition.h"
#include "espalier/device/device.h"
#include "espalier/model/model.h"
#include "espalier/model/plan.h"
#include "espalier/train/frozen.h"
#include "espalier/train/settings.h"

namespace espalier {

struct Experiment {
  std::int64_t seed = 1;
  std::int64_t rounds = 0;
  TrainSettings train;
  Model model;
  Dataset data;
  std::optional<Partition> partition;  ///< absent only under --check without data
  std::unique_ptr<Fleet> fleet;
  std::unique_ptr<PlanCache> plans;
  std::unique_ptr<FrozenValues> frozen;  ///< null: nothing is frozen

  std::int64_t samples_of(std::int64_t client) const { return partition->size(client); }
  /// Samples in a batch of the client: the batch of its device, else train.batch.
  std::int64_t batch_of(std::int64_t client) const {
    const std::int64_t own = fleet->device(client).batch;
    return own > 0 ? own : train.batch;
  }
  /// Zeros in a buffer of this aligned layout, with the frozen values in their places.
  Parameters allocate(std::shared_ptr<const BufferLayout> aligned) const {
    return frozen ? frozen->allocate(*plans, *model.layout, std::move(aligned))
                  : Parameters(std::move(aligned));
  }
  Workload workload_of(std::int64_t client) const {
    return workload(train, batch_of(client), samples_of(client));
  }
};

/// run.seed, run.rounds, run.horizon.
void declare_experiment_options(OptionTable& table);

/// Builds the experiment. With `data_may_be_absent` (--check) missing data gives a warning, and the
/// declared shapes are used. Throws the InputError and DataError of its parts.
Experiment build_experiment(const Config& config, bool data_may_be_absent = false);

}  // namespace espalier
