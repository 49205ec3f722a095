#pragma once
// Everything that the input file describes and every rank builds for itself, equal on all of them:
// model, data, who has which samples, which device each client is, how it trains.

#include <cstdint>
#include <memory>
#include <optional>

#include "espalier/config/config.h"
#include "espalier/data/dataset.h"
#include "espalier/data/partition.h"
#include "espalier/device/device.h"
#include "espalier/model/model.h"
#include "espalier/model/plan.h"
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

  std::int64_t samples_of(std::int64_t client) const { return partition->size(client); }
  /// Samples in a batch of the client: its device's own, else train.batch.
  std::int64_t batch_of(std::int64_t client) const {
    const std::int64_t own = fleet->device(client).batch;
    return own > 0 ? own : train.batch;
  }
  Workload workload_of(std::int64_t client) const {
    return workload(train, batch_of(client), samples_of(client));
  }
};

/// run.seed, run.rounds, run.horizon.
void declare_experiment_options(OptionTable& table);

/// Builds all of it. With `data_may_be_absent` (--check) missing data is a warning and the declared
/// shapes are used. Throws InputError and DataError as its parts do.
Experiment build_experiment(const Config& config, bool data_may_be_absent = false);

}  // namespace espalier
