#include "espalier/app/calibration.h"

#include <time.h>

#include <algorithm>
#include <memory>

#include "espalier/app/options.h"
#include "espalier/device/memory.h"
#include "espalier/model/unit_window.h"
#include "espalier/train/trainer.h"

namespace espalier {
namespace {

using Settings = std::vector<std::pair<std::string, std::string>>;

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

Config config_of(const Combination& combination, std::int64_t steps) {
  Config config(all_options({}));
  const auto set = [&](const std::string& key, const std::string& value) {
    config.set(key, value, "calibrate");
  };
  set("model.name", combination.family);
  set("data.name", "synthetic");
  set("data.synthetic_samples", std::to_string(combination.batch * steps));
  set("clients.count", "1");
  set("train.batch", std::to_string(combination.batch));
  set("train.steps", std::to_string(steps));
  for (const auto& [key, value] : combination.settings) set(key, value);
  set_model_defaults(config);
  return config;
}

/// One combination, ready to be trained.
class Item {
 public:
  Item(const Combination& combination, std::int64_t steps)
      : config_(config_of(combination, steps)), experiment_(build_experiment(config_)) {
    const Layout& layout = *experiment_.model.layout;
    task_.submodel = window_submodel(layout, combination.width, 0);
    Parameters model(experiment_.plans->buffer_layout(Submodel::full(layout), Packing::aligned));
    initialise(model, experiment_.seed);
    const auto dense = experiment_.plans->buffer_layout(task_.submodel, Packing::dense);
    payload_ = pack_payload(*experiment_.plans, model, *dense);
    measured_.combination = combination;
    measured_.steps = steps;
    measured_.step = training_cost(experiment_.model, task_.submodel, combination.batch,
                                   Optimizer::copies(experiment_.train));
    train();  // the first task makes kernels and plans
  }

  /// Measures tasks for at least 20 ms, because the time of one short task varies much.
  void take_turn() {
    constexpr double kTurn_s = 0.02;
    for (double spent = 0; spent < kTurn_s; spent += seconds_.back()) seconds_.push_back(train());
  }

  MeasuredTask measured() {
    measured_.seconds = lower_quartile(seconds_);
    return measured_;
  }

 private:
  double train() {
    const double start = processor_seconds();
    const MemoryScope scope(MemoryAccount::create(0));
    LocalObjective cross_entropy;
    Trainer trainer(experiment_, task_.client, task_.nth_task, task_.base_version);
    trainer.place(experiment_.model.layout, task_.submodel, *payload_);
    trainer.attach_optimizer();
    for (std::int64_t step = 0; step < measured_.steps; ++step) {
      trainer.train_batch(cross_entropy, task_);
    }
    pack_payload(*experiment_.plans, trainer.parameters(),
                 *experiment_.plans->buffer_layout(task_.submodel, Packing::dense));
    return processor_seconds() - start;
  }

  Config config_;
  Experiment experiment_;
  LocalTask task_;
  SharedBytes payload_;
  MeasuredTask measured_;
  std::vector<double> seconds_;
};

Settings text(const char* length, const char* vocabulary, bool next_token) {
  return {{"data.length", length},
          {"data.synthetic_vocabulary", vocabulary},
          {"data.synthetic_labels", next_token ? "next_token" : "classes"}};
}

Settings with(Settings settings, const Settings& more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

}  // namespace

double lower_quartile(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 4];
}

std::vector<Combination> calibration_combinations(bool quick) {
  // Widths and batches. Their steps take 1 to 50 ms on a core of 2020.
  using Sizes = std::vector<std::pair<double, std::int64_t>>;
  struct Family {
    const char* name;
    Settings settings;
    Sizes fitted;
    Sizes held_out;
  };
  const Settings grey{{"data.synthetic_shape", "1, 28, 28"}};
  const Settings colour{{"data.synthetic_shape", "3, 32, 32"}};
  const Settings slim = with(colour, {{"model.width", "32"}});
  const Settings narrow{{"model.embed", "128"}, {"model.heads", "4"}, {"model.depth", "4"}};
  const Settings wide{{"model.embed", "256"}, {"model.heads", "4"}, {"model.depth", "2"}};
  const std::vector<Family> families{
      {"mlp",
       with(grey, {{"model.hidden", "512, 256"}}),
       {{1, 16}, {1, 64}, {0.5, 32}, {0.25, 16}, {0.25, 64}},
       {{0.75, 48}, {0.375, 24}, {0.5, 64}}},
      {"lenet", grey, {{1, 8}, {1, 32}, {0.5, 16}}, {{1, 20}, {0.75, 32}}},
      {"lenet", colour, {{1, 16}, {0.5, 32}}, {{0.75, 24}}},
      {"cnn", grey, {{1, 8}, {0.5, 16}, {0.25, 32}}, {{0.75, 12}, {0.375, 24}}},
      {"cnn", colour, {{1, 12}, {0.5, 24}, {0.25, 12}}, {{0.75, 16}, {0.375, 8}}},
      {"vgg", slim, {{1, 8}, {0.5, 8}, {0.5, 24}, {0.25, 16}}, {{0.75, 12}, {0.375, 20}}},
      {"resnet", slim, {{1, 4}, {0.5, 4}, {0.5, 12}, {0.25, 8}}, {{0.75, 6}, {0.375, 8}}},
      {"vit",
       with(colour, {{"model.depth", "3"}}),
       {{1, 4}, {0.5, 4}, {0.5, 12}, {0.25, 8}},
       {{0.75, 6}, {0.375, 10}}},
      {"gpt",
       with(narrow, text("64", "256", true)),
       {{1, 4}, {1, 8}, {0.5, 8}, {0.25, 4}},
       {{0.75, 4}, {0.375, 6}}},
      {"gpt", with(wide, text("256", "256", true)), {{1, 1}, {0.5, 2}}, {{0.75, 2}}},
      {"encoder",
       with(narrow, text("64", "5000", false)),
       {{1, 4}, {1, 12}, {0.5, 12}, {0.25, 8}},
       {{0.75, 8}, {0.375, 12}}},
  };
  std::vector<Combination> all;
  const auto add = [&](const Family& family, const Sizes& sizes, bool held_out) {
    for (const auto& [width, batch] : sizes) {
      constexpr std::int64_t kSmaller = 4;
      const std::int64_t own = quick ? std::max<std::int64_t>(1, batch / kSmaller) : batch;
      all.push_back({family.name, family.settings, width, own, held_out});
    }
  };
  for (const Family& family : families) {
    add(family, family.fitted, false);
    add(family, family.held_out, true);
  }
  return all;
}

std::vector<MeasuredTask> measure_tasks(const std::vector<Combination>& combinations, bool quick) {
  const std::int64_t steps = quick ? 4 : 8;
  const int turns = quick ? 2 : 7;
  std::vector<std::unique_ptr<Item>> items;
  for (const Combination& combination : combinations) {
    items.push_back(std::make_unique<Item>(combination, steps));
  }
  for (int turn = 0; turn < turns; ++turn) {
    for (const auto& item : items) item->take_turn();
  }
  std::vector<MeasuredTask> measured;
  for (const auto& item : items) measured.push_back(item->measured());
  return measured;
}

}  // namespace espalier
