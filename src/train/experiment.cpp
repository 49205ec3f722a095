#include "espalier/train/experiment.h"

#include <algorithm>
#include <limits>

#include "espalier/base/log.h"
#include "espalier/train/penalty.h"

namespace espalier {
namespace {

/// For --check without the data: the data as its options describe it.
Dataset declared_data(const Config& config, const MissingDataError& missing) {
  Dataset data;
  data.name = config.text("data.name");
  try {
    data.shape = masked_shape(config, data_sources().get(data.name).value.shape(config));
  } catch (const DataError& unknown) {
    throw DataError(formatted("{}; {}", missing.what(), unknown.what()));
  }
  log_warning(formatted("{} (checking with the declared shapes)", missing.what()));
  return data;
}

/// Clients whose only batch is smaller than asked for. It is usual that a few have little data;
/// that all have is mostly a mistake.
void tell_small_clients(const Experiment& e) {
  std::int64_t small = 0, least = std::numeric_limits<std::int64_t>::max(), asked = 0;
  for (std::int64_t client = 0; client < e.fleet->size(); ++client) {
    const std::int64_t samples = e.samples_of(client);
    if (samples == 0 || samples >= e.batch_of(client)) continue;
    ++small;
    least = std::min(least, samples);
    asked = std::max(asked, e.batch_of(client));
  }
  if (small == 0) return;
  const std::string text = formatted(
      "{} of {} clients have fewer samples than a batch (train.batch = {}; the least is {}): each "
      "of their batches is all that they have",
      small, e.fleet->size(), asked, least);
  if (small == e.fleet->size()) {
    log_warning(text);
  } else {
    log_note(text);
  }
}

}  // namespace

void declare_experiment_options(OptionTable& table) {
  table.add({"run.seed", OptionType::integer, "1", "seed of every random stream", "", 0, 9e15});
  table.add(
      {"run.rounds", OptionType::integer, "10",
       "number of rounds (merges); 0 = the first model is evaluated and saved, and nothing is "
       "trained",
       "", 0, 1e12, OnResume::may_change});
  table.add({"run.horizon", OptionType::integer, "0",
             "length of the run for schedules; 0 = run.rounds, also if a resume changes it",
             "versions", 0, 1e12});
}

Experiment build_experiment(const Config& config, bool data_may_be_absent) {
  Experiment e;
  e.seed = config.integer("run.seed");
  e.rounds = config.integer("run.rounds");
  const std::int64_t horizon = config.integer("run.horizon");
  e.train = train_settings(config, horizon > 0 ? horizon : std::max<std::int64_t>(1, e.rounds));
  e.fleet = std::make_unique<Fleet>(config);

  try {
    e.data = load_dataset(config);
  } catch (const MissingDataError& missing) {
    if (!data_may_be_absent) throw;
    e.data = declared_data(config, missing);
  }
  e.model = build_model(config, e.data.shape);
  freeze_entries(config, e.model);
  if (has_frozen(*e.model.layout)) e.frozen = std::make_unique<FrozenValues>();
  refuse_idle_penalties(e.train, e.model);
  if (e.data.train) {
    e.partition.emplace(config, e.data);
    tell_small_clients(e);
  }
  e.plans = std::make_unique<PlanCache>(e.model.layout);
  return e;
}

}  // namespace espalier
