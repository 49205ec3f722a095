#pragma once
// Common to tests of methods: an experiment and its clients' rules, from an input.

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "espalier/device/availability.h"
#include "espalier/device/memory.h"
#include "espalier/method/register.h"
#include "espalier/protocol/rounds/client_stepper.h"
#include "espalier/protocol/rounds/server.h"
#include "espalier/train/task_cost.h"

namespace espalier::rounds {

/// Every option that a run reads.
inline OptionTable method_options() {
  OptionTable table;
  declare_experiment_options(table);
  declare_stop_options(table);
  declare_model_options(table);
  declare_data_options(table);
  declare_device_options(table);
  table.add({"method.name", OptionType::text, "fedavg", "the method"});
  for (const Protocol& protocol : protocols()) protocol.declare(table);
  declare_train_options(table);
  declare_clock_options(table);
  declare_resource_options(table);
  declare_availability_options(table);
  declare_evaluation_options(table);
  return table;
}

struct Setting {
  Config config;
  Experiment experiment;
  ClientRules rules;
};

/// One client on synthetic data; `text` is the rest of the input, beginning with the method's name.
inline std::unique_ptr<Setting> make_setting(const std::string& text, const std::string& more) {
  install_counting_allocator();
  at::set_num_threads(1);
  Config config(method_options());
  config.read_text("[data]\nname = synthetic\nsynthetic_shape = 1, 16, 16\n[clients]\ncount = 1\n",
                   "the fixture");
  config.read_text(text, "the test");
  config.read_text(more, "the test's settings");
  set_defaults(rounds_catalogue(), config);
  const RuleNames names = rule_names(rounds_catalogue(), config);
  Experiment experiment = build_experiment(config);
  return std::make_unique<Setting>(
      Setting{std::move(config), std::move(experiment), client_rules(rounds_catalogue(), names)});
}

struct TrainedTask {
  ClientResult result;
  std::vector<float> sent, values;  ///< the payload, and the trained values of the submodel
};

/// The client's first task, from this payload of `submodel`.
inline TrainedTask train_from(const Setting& s, const Submodel& submodel, SharedBytes payload,
                              Bytes state = {}, std::vector<PeerModel> peers = {}) {
  ClientTask task;
  task.submodel = submodel;
  const std::int64_t description = std::ssize(task.encode());
  task.peers = std::move(peers);
  const std::int64_t peer_bytes = std::ssize(task.encode()) - description;
  task.state = std::move(state);
  ClientStepper stepper({s.config, s.experiment}, s.rules, task, std::ssize(*payload) + peer_bytes,
                        payload);
  while (stepper.step()) {
  }
  const auto [result, values] = stepper.finish();
  const auto floats = [](const Bytes& bytes) {
    std::vector<float> made(bytes.size() / sizeof(float));
    std::memcpy(made.data(), bytes.data(), bytes.size());
    return made;
  };
  return {result, floats(*payload), floats(*values)};
}

/// The client's first task: `submodel` of the model's first values.
inline TrainedTask train(const Setting& s, const Submodel& submodel, Bytes state = {},
                         std::vector<PeerModel> peers = {}) {
  const Experiment& e = s.experiment;
  Parameters model(e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned));
  initialise(model, e.seed);
  return train_from(
      s, submodel, pack_payload(*e.plans, model, *e.plans->buffer_layout(submodel, Packing::dense)),
      std::move(state), std::move(peers));
}

}  // namespace espalier::rounds
