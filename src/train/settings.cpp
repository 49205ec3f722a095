#include "espalier/train/settings.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"

namespace espalier {

void declare_train_options(OptionTable& table) {
  table.add({"train.epochs", OptionType::integer, "1", "passes over a client's samples in one task",
             "", 1, 1e6});
  table.add({"train.steps", OptionType::integer, "0",
             "batches in one task; above 0 it replaces train.epochs", "", 0, 1e9});
  table.add({"train.batch", OptionType::integer, "20", "samples in a batch", "", 1, 1e6});
  table.add({"train.optimizer", OptionType::choice, "sgd", "local optimiser", "", {}, {}, {"sgd"}});
  table.add({"train.lr", OptionType::real, "0.05", "learning rate", "", 0, 1e3});
  table.add({"train.momentum", OptionType::real, "0", "momentum, reset at each task", "", 0, 1});
  table.add({"train.nesterov", OptionType::boolean, "false", "Nesterov's form of momentum"});
  table.add({"train.weight_decay", OptionType::real, "0", "L2 penalty added to the gradient", "", 0,
             1e3});
  table.add({"train.clip", OptionType::real, "0", "largest norm of a batch's gradient; 0 = any", "",
             0, 1e9});
  table.add({"train.schedule",
             OptionType::choice,
             "constant",
             "learning rate against the task's base version",
             "",
             {},
             {},
             {"constant", "step"}});
  table.add({"train.step_every", OptionType::integer, "0",
             "schedule step: versions between two decays; 0 = half of run.horizon", "versions", 0,
             1e12});
  table.add(
      {"train.decay", OptionType::real, "0.1", "schedule step: factor of each decay", "", 0, 1});
}

TrainSettings train_settings(const Config& config, std::int64_t horizon) {
  TrainSettings s;
  s.epochs = config.integer("train.epochs");
  s.steps = config.integer("train.steps");
  s.batch = config.integer("train.batch");
  config.text("train.optimizer");
  s.lr = config.real("train.lr");
  s.momentum = config.real("train.momentum");
  s.nesterov = config.boolean("train.nesterov");
  s.weight_decay = config.real("train.weight_decay");
  s.clip = config.real("train.clip");
  s.schedule = config.text("train.schedule") == "step" ? Schedule::step : Schedule::constant;
  if (s.nesterov && s.momentum == 0) {
    throw InputError("train.nesterov needs a train.momentum above 0");
  }
  if (s.schedule == Schedule::step) {
    s.step_every = config.integer("train.step_every");
    if (s.step_every == 0) s.step_every = std::max<std::int64_t>(1, horizon / 2);
    s.decay = config.real("train.decay");
  }
  return s;
}

double learning_rate(const TrainSettings& s, std::int64_t base_version) {
  if (s.schedule == Schedule::constant) return s.lr;
  return s.lr * std::pow(s.decay, static_cast<double>(base_version / s.step_every));
}

Workload workload(const TrainSettings& s, std::int64_t samples) {
  Workload w;
  const std::int64_t full_per_epoch = samples / s.batch;
  w.rest = samples % s.batch;
  const std::int64_t per_epoch = full_per_epoch + (w.rest > 0 ? 1 : 0);
  w.steps = s.steps > 0 ? s.steps : s.epochs * per_epoch;
  const std::int64_t whole_epochs = per_epoch == 0 ? 0 : w.steps / per_epoch;
  const std::int64_t beyond = per_epoch == 0 ? 0 : w.steps % per_epoch;
  w.full_steps = whole_epochs * full_per_epoch + beyond;
  w.samples = whole_epochs * samples + beyond * s.batch;
  return w;
}

}  // namespace espalier
