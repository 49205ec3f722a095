#include "espalier/train/settings.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numbers>

#include "espalier/base/error.h"
#include "espalier/config/choice.h"
#include "espalier/train/frozen.h"

namespace espalier {
namespace {

constexpr const char* kOptimizers[] = {"sgd", "adam", "adamw", "adan", "rmsprop"};
constexpr const char* kSchedules[] = {"constant", "step", "exponential", "cosine"};

void read_optimizer(const Config& config, TrainSettings& s) {
  s.optimizer = choice<OptimizerKind>(config, "train.optimizer", kOptimizers);
  s.optimizer_state =
      config.text("train.optimizer_state") == "keep" ? OptimizerState::keep : OptimizerState::reset;
  s.lr = config.real("train.lr");
  s.weight_decay = config.real("train.weight_decay");
  const bool sgd = s.optimizer == OptimizerKind::sgd;
  const bool adan = s.optimizer == OptimizerKind::adan;
  const bool rmsprop = s.optimizer == OptimizerKind::rmsprop;
  if (sgd || rmsprop) s.momentum = config.real("train.momentum");
  if (sgd) {
    s.nesterov = config.boolean("train.nesterov");
    if (s.nesterov && s.momentum == 0) {
      throw InputError("train.nesterov needs a train.momentum above 0");
    }
    return;
  }
  s.epsilon = config.real("train.epsilon");
  if (rmsprop) {
    s.alpha = config.real("train.alpha");
    return;
  }
  const auto beta = [&](const char* key, double own) {
    const double given = config.real(key);
    return given < 0 ? own : given;
  };
  s.beta1 = beta("train.beta1", adan ? 0.98 : 0.9);
  s.beta2 = beta("train.beta2", adan ? 0.92 : 0.999);
  if (adan) s.beta3 = beta("train.beta3", 0.99);
}

void read_schedule(const Config& config, TrainSettings& s) {
  s.schedule = choice<Schedule>(config, "train.schedule", kSchedules);
  s.warmup = config.integer("train.warmup");
  if (s.schedule == Schedule::step || s.schedule == Schedule::exponential) {
    s.step_every = config.integer("train.step_every");
    if (s.step_every == 0) s.step_every = std::max<std::int64_t>(1, s.horizon / 2);
    s.decay = config.real("train.decay");
  }
  if (s.schedule == Schedule::cosine) s.final_share = config.real("train.final_share");
}

}  // namespace

void declare_train_options(OptionTable& table) {
  // The fraction of a running mean that each step keeps; 1 would never change it.
  const auto fraction = [&](const char* key, const char* own, const char* help, double least) {
    table.add({key, OptionType::real, own, help, "", least, 0.9999999});
  };
  table.add({"train.epochs", OptionType::integer, "1", "passes over a client's samples in one task",
             "", 1, 1e6});
  table.add({"train.steps", OptionType::integer, "0",
             "batches in one task; above 0 it replaces train.epochs", "", 0, 1e9});
  table.add({"train.batch", OptionType::integer, "20", "samples in a batch", "", 1, 1e6});
  table.add({"train.accumulate", OptionType::integer, "1",
             "parts of a batch, which pass through the model one after the other; the gradient is "
             "the mean over the batch, the memory is for one part",
             "", 1, 1e6});
  table.add({"train.label_smoothing", OptionType::real, "0",
             "fraction of each label that is spread evenly over all classes", "", 0, 1});
  table.add_choice("train.optimizer", "sgd", "local optimiser",
                   {std::begin(kOptimizers), std::end(kOptimizers)});
  table.add_choice(
      "train.optimizer_state", "reset",
      "momentum and moments: start at zero in every task (reset), or stay with the client (keep)",
      {"reset", "keep"});
  table.add({"train.lr", OptionType::real, "0.05", "learning rate", "", 0, 1e3});
  table.add({"train.momentum", OptionType::real, "0", "sgd, rmsprop: momentum", "", 0, 1});
  table.add({"train.nesterov", OptionType::boolean, "false", "sgd: Nesterov's form of momentum"});
  table.add(
      {"train.weight_decay", OptionType::real, "0",
       "sgd, adam, rmsprop: factor of an L2 penalty in the gradient; adamw, adan: decoupled decay",
       "", 0, 1e3});
  fraction("train.beta1", "-1",
           "decay of the mean of gradients; below 0: adam and adamw 0.9, adan 0.98", -1);
  fraction(
      "train.beta2", "-1",
      "decay of the mean of squares (adam, adamw) or differences (adan); below 0: 0.999, adan 0.92",
      -1);
  fraction("train.beta3", "-1", "adan: decay of the mean of squares; below 0: 0.99", -1);
  fraction("train.alpha", "0.99", "rmsprop: decay of the mean of squares", 0);
  table.add({"train.epsilon", OptionType::real, "1e-8",
             "adam, adamw, adan, rmsprop: term added to the root of the mean of squares", "", 1e-30,
             1});
  table.add({"train.clip", OptionType::real, "0",
             "largest norm of a batch's gradient; 0 = no limit", "", 0, 1e9});
  table.add({"train.group_lasso", OptionType::real, "0",
             "sparse training: weight of a group lasso, the sum over all units of the root of the "
             "unit's number of weights times their norm; 0 = none; not part of train_loss",
             "", 0, 1e6});
  table.add({"train.scale_l1", OptionType::real, "0",
             "sparse training: weight of the sum of the absolute scales of the units' norms "
             "(network slimming); 0 = none; not part of train_loss",
             "", 0, 1e6});
  declare_freeze_options(table);
  table.add_choice("train.schedule", "constant",
                   "learning rate as a function of the task's base version",
                   {std::begin(kSchedules), std::end(kSchedules)});
  table.add({"train.warmup", OptionType::integer, "0",
             "number of versions over which the learning rate rises evenly to its full value",
             "versions", 0, 1e12});
  table.add({"train.step_every", OptionType::integer, "0",
             "schedules step and exponential: versions between two decays; 0 = half of run.horizon",
             "versions", 0, 1e12});
  table.add({"train.decay", OptionType::real, "0.1",
             "schedules step and exponential: factor of each decay", "", 0, 1});
  table.add({"train.final_share", OptionType::real, "0",
             "schedule cosine: fraction of the learning rate that remains at run.horizon", "", 0,
             1});
}

TrainSettings train_settings(const Config& config, std::int64_t horizon) {
  TrainSettings s;
  s.epochs = config.integer("train.epochs");
  s.steps = config.integer("train.steps");
  s.batch = config.integer("train.batch");
  s.accumulate = config.integer("train.accumulate");
  s.label_smoothing = config.real("train.label_smoothing");
  s.clip = config.real("train.clip");
  s.group_lasso = config.real("train.group_lasso");
  s.scale_l1 = config.real("train.scale_l1");
  s.horizon = horizon;
  read_optimizer(config, s);
  read_schedule(config, s);
  return s;
}

double learning_rate(const TrainSettings& s, std::int64_t base_version) {
  const double warm = base_version < s.warmup ? static_cast<double>(base_version + 1) /
                                                    static_cast<double>(s.warmup + 1)
                                              : 1;
  const std::int64_t after = std::max<std::int64_t>(0, base_version - s.warmup);
  switch (s.schedule) {
    case Schedule::constant:
      break;
    case Schedule::step:
      return s.lr * warm * std::pow(s.decay, static_cast<double>(after / s.step_every));
    case Schedule::exponential:
      return s.lr * warm *
             std::pow(s.decay, static_cast<double>(after) / static_cast<double>(s.step_every));
    case Schedule::cosine: {
      const std::int64_t length = std::max<std::int64_t>(1, s.horizon - s.warmup);
      const double done =
          static_cast<double>(std::min(after, length)) / static_cast<double>(length);
      const double fall = (1 + std::cos(std::numbers::pi * done)) / 2;
      return s.lr * warm * (s.final_share + (1 - s.final_share) * fall);
    }
  }
  return s.lr * warm;
}

std::int64_t part_size(const TrainSettings& s, std::int64_t batch) {
  return (batch + s.accumulate - 1) / s.accumulate;
}

std::vector<Workload::Passes> passes_of(const TrainSettings& s, std::int64_t batch,
                                        std::initializer_list<Workload::Passes> steps) {
  const std::int64_t part = part_size(s, batch);
  std::map<std::int64_t, std::int64_t, std::greater<>> passes;
  for (const auto& [size, count] : steps) {
    if (count == 0) continue;
    if (size / part > 0) passes[part] += count * (size / part);
    if (size % part > 0) passes[size % part] += count;
  }
  std::vector<Workload::Passes> made;
  for (const auto& [size, count] : passes) made.push_back({size, count});
  return made;
}

Workload workload(const TrainSettings& s, std::int64_t batch, std::int64_t samples) {
  Workload w;
  if (samples == 0) return w;
  const std::int64_t full_per_epoch = samples / batch;
  const std::int64_t rest = samples % batch;
  const std::int64_t per_epoch = full_per_epoch + (rest > 0 ? 1 : 0);
  w.steps = s.steps > 0 ? s.steps : s.epochs * per_epoch;
  const std::int64_t whole_epochs = w.steps / per_epoch;
  const std::int64_t beyond = w.steps % per_epoch;
  w.samples = whole_epochs * samples + beyond * batch;

  const std::int64_t full_steps = whole_epochs * full_per_epoch + beyond;
  const std::int64_t rest_steps = rest > 0 ? whole_epochs : 0;
  w.passes = passes_of(s, batch, {{batch, full_steps}, {rest, rest_steps}});
  return w;
}

Workload first_steps(const TrainSettings& settings, std::int64_t batch, std::int64_t samples,
                     std::int64_t steps) {
  if (steps == 0) return {};
  TrainSettings shortened = settings;
  shortened.steps = steps;
  return workload(shortened, batch, samples);
}

}  // namespace espalier
