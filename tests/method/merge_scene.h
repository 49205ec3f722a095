#pragma once
// Common to tests of merge rules: a small model, and updates of its submodels.

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "espalier/method/register.h"
#include "espalier/model/model.h"
#include "espalier/protocol/rounds/client_stepper.h"
#include "espalier/protocol/rounds/server_optimizer.h"
#include "purpose.h"

namespace espalier::rounds {

/// Two layers, updates of submodels of them by four clients, and a model that they started from.
struct Scene {
  Scene() {
    auto made = std::make_shared<Layout>();
    const int in = made->add_axis("in", 4, false);
    hidden = made->add_axis("hidden", 60);
    const int out = made->add_axis("out", 20);
    const int block = made->add_block("all");
    made->add_entry({"a", Kind::trainable, block, {made->along(hidden), made->along(in)}, {}});
    made->add_entry({"b", Kind::trainable, block, {made->along(out), made->along(hidden)}, {}});
    layout = made;
    experiment.model.layout = layout;
    OptionTable table;
    declare_experiment_options(table);
    declare_device_options(table);
    Config config(table);
    config.read_text("[clients]\ncount = 4\n", "the scene");
    experiment.fleet = std::make_unique<Fleet>(config);
    experiment.plans = std::make_unique<PlanCache>(layout);
    const auto full = experiment.plans->buffer_layout(Submodel::full(*layout), Packing::aligned);
    model = Parameters(full);
    before = Parameters(full);
    Stream stream(1, kTest);
    const auto plan =
        experiment.plans->plan(*full, *full);  // of values, not of padding: that stays zero
    plan->for_each_value([&](std::int64_t source, std::int64_t) {
      before.data()[source] = static_cast<float>(stream.normal());
    });
    reset();
  }

  void reset() {
    std::memcpy(model.data(), before.data(),
                static_cast<std::size_t>(model.buffer_layout().size()) * sizeof(float));
  }

  /// An update that moved every value of its submodel by `step`.
  Update update(std::vector<std::int64_t> units, double step, double width) {
    Submodel submodel = Submodel::full(*layout);
    submodel.keep(hidden, std::move(units));
    Update u;
    u.client = u.task = made_++;
    u.buffer_layout = experiment.plans->buffer_layout(submodel, Packing::dense);
    u.sent = pack_payload(*experiment.plans, before, *u.buffer_layout);
    auto trained = std::make_shared<Bytes>(*u.sent);
    auto* values = reinterpret_cast<float*>(trained->data());
    for (std::int64_t i = 0; i < u.buffer_layout->count(Kind::trainable); ++i) {
      values[i] = static_cast<float>(static_cast<double>(values[i]) + step);
    }
    u.values = trained;
    u.samples = 10;
    u.width = width;
    return u;
  }

  /// A registered merge rule, with `settings` of [method], and the server optimiser of these.
  std::unique_ptr<MergeRule> rule(const std::string& name, const std::string& settings) {
    OptionTable table;
    for (const Option& option : rounds_catalogue().options.options()) table.add(option);
    Config config(table);
    config.read_text("[method]\n" + settings, "the test");
    return with_server_optimizer(config,
                                 rounds_catalogue().merges.get(name).value({config, experiment}));
  }

  double value(int entry, std::int64_t index) const {
    return model[entry].flatten()[index].item<double>();
  }
  double first(int entry, std::int64_t index) const {
    return before[entry].flatten()[index].item<double>();
  }

  Experiment experiment;
  std::shared_ptr<const Layout> layout;
  int hidden = 0;
  Parameters model, before;

 private:
  std::int64_t made_ = 0;
};

}  // namespace espalier::rounds
