#pragma once
// Experiments for the tests of regions.

#include "espalier/engine/clock.h"
#include "espalier/protocol/regions/server.h"
#include "espalier/train/evaluate.h"

namespace espalier::regions {

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
  declare_schedule_options(table);
  declare_fragment_options(table);
  declare_codec_options(table);
  declare_arrival_options(table);
  declare_merge_options(table);
  declare_region_options(table);
  declare_fault_options(table);
  declare_availability_options(table);
  declare_server_options(table);
  Config config(std::move(table));
  config.read_text(text, "the test");
  config.read_text(more, "the test's settings");
  return config;
}

struct Scene {
  Config config;
  Experiment experiment;
  explicit Scene(const std::string& text, const std::string& more = "")
      : config(config_of(text, more)), experiment(build_experiment(config)) {}
};

}  // namespace espalier::regions
