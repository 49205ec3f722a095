#pragma once
// Experiments for the tests of split training.

#include "espalier/engine/clock.h"
#include "espalier/protocol/split/server.h"
#include "espalier/train/evaluate.h"

namespace espalier::split {

/// `more` may repeat options of `text`.
inline Config config_of(const std::string& text, const std::string& more) {
  OptionTable table;
  declare_experiment_options(table);
  declare_model_options(table);
  declare_data_options(table);
  declare_device_options(table);
  declare_train_options(table);
  declare_evaluation_options(table);
  declare_clock_options(table);
  declare_resource_options(table);
  declare_part_options(table);
  declare_server_options(table);
  Config config(std::move(table));
  config.read_text(text, "the test");
  config.read_text(more, "the test's settings");
  return config;
}

struct Scene {
  Config config;
  Experiment experiment;
  std::shared_ptr<const Parts> parts;
  Costs costs;
  explicit Scene(const std::string& text, const std::string& more = "")
      : config(config_of(text, more)),
        experiment(build_experiment(config)),
        parts(std::make_shared<const Parts>(make_parts(config, experiment))),
        costs(experiment, *parts) {}

  Parameters first_values() const {
    Parameters model(experiment.plans->buffer_layout(Submodel::full(*experiment.model.layout),
                                                     Packing::aligned));
    initialise(model, experiment.seed);
    return model;
  }
  SharedBytes weights(const Submodel& part) const {
    const auto dense = experiment.plans->buffer_layout(part, Packing::dense);
    return pack_payload(*experiment.plans, first_values(), *dense);
  }
};

inline Scene scene_of(const std::string& more) {
  return Scene(
      "[data]\nname = synthetic\nsynthetic_samples = 160\nsynthetic_shape = 1, 6, 6\n"
      "[clients]\ncount = 8\nfleet = 3*fast, 5*slow\n[model]\nname = mlp\nhidden = 12, 10\n"
      "[device.fast]\ngflops = 0.002\nup_mbps = 2\ndown_mbps = 4\nlatency_ms = 3\n"
      "[device.slow]\ngflops = 0.001\nup_mbps = 1\ndown_mbps = 2\nlatency_ms = 5\n"
      "[train]\nbatch = 4\nlr = 0.1\n[split]\ncut = 1\n",
      more);
}

}  // namespace espalier::split
