#include "espalier/protocol/regions/protocol.h"

#include <algorithm>
#include <limits>

#include "espalier/base/log.h"
#include "espalier/base/units.h"
#include "espalier/device/emulated_time.h"
#include "espalier/engine/faults.h"
#include "espalier/protocol/regions/decoupled.h"
#include "espalier/protocol/regions/memory.h"
#include "espalier/protocol/regions/server.h"
#include "espalier/protocol/regions/tables.h"
#include "espalier/train/weights.h"

namespace espalier::regions {
namespace {

/// The part of the fastest region's period that the busiest link of a region needs to carry every
/// fragment once.
double link_use(const Experiment& e, const ServerSettings& settings) {
  std::int64_t up = 0;
  std::int64_t down = 0;
  for (const Fragment& fragment : settings.regions.fragments) {
    up += encoded_bytes(settings.regions.codec, fragment.tensors);
    down += fragment.values() * static_cast<std::int64_t>(sizeof(float));
  }
  const StepTimes times(e);
  Nanoseconds transfer = 0;
  Nanoseconds step = std::numeric_limits<Nanoseconds>::max();
  for (std::int64_t region = 0; region < e.fleet->size(); ++region) {
    const DeviceClass& device = e.fleet->device(region);
    transfer = std::max(
        {transfer, transfer_time(device.up_mbps, 0, up), transfer_time(device.down_mbps, 0, down)});
    step = std::min(step, times.of(region, 0, 1));
  }
  return static_cast<double>(transfer) / static_cast<double>(std::max<Nanoseconds>(
                                             1, espalier::times(settings.schedule.period, step)));
}

class Regions final : public Preparation {
 public:
  Regions(const Config& config, const Experiment& experiment)
      : experiment_(experiment),
        method_(config.text("method.name")),
        settings_(server_settings(config, experiment)),
        model_(first_model(config, experiment)) {}

  void print_check() const override;

  std::unique_ptr<Conversation> converse(Run& run) override {
    if (settings_.decoupling) {
      return std::make_unique<DecoupledServer>(experiment_, std::move(settings_), std::move(model_),
                                               run);
    }
    return std::make_unique<RegionsServer>(experiment_, std::move(settings_), std::move(model_),
                                           run);
  }

 private:
  const Experiment& experiment_;
  std::string method_;
  ServerSettings settings_;
  Parameters model_;  // before the first step
};

void Regions::print_check() const {
  const Experiment& e = experiment_;
  const ScheduleSettings& schedule = settings_.schedule;
  log_note(formatted("method   {}", method_));
  log_note(
      formatted("model    {}, {}", e.model.name, parameters_description(model_.buffer_layout())));
  log_note(formatted("data     {}, {} training and {} test samples", e.data.name,
                     e.data.train ? e.data.train->size() : 0,
                     e.data.test ? e.data.test->size() : 0));
  log_note(formatted("regions  {}, {} periods of {} steps, applied {} steps after sending",
                     e.fleet->size(), e.rounds, schedule.period, schedule.overlap));
  if (schedule.spacing > 0) {
    log_note(formatted("         a fragment is sent every {} steps", schedule.spacing));
  }
  log_note(formatted("         {:<10} {:>8} {:>14} {:>12}", "fragment", "blocks", "parameters",
                     "message"));
  for (std::size_t i = 0; i < settings_.regions.fragments.size(); ++i) {
    const Fragment& fragment = settings_.regions.fragments[i];
    log_note(formatted("         {:<10} {:>8} {:>14} {:>12}", i, fragment.blocks.size(),
                       fragment.values(),
                       megabytes(encoded_bytes(settings_.regions.codec, fragment.tensors))));
  }
  std::int64_t largest = 0;
  for (std::int64_t region = 0; region < e.fleet->size(); ++region) {
    largest = std::max(largest,
                       region_bytes(e, settings_.regions, part_size(e.train, e.batch_of(region))));
  }
  log_note(server_line(e, held_bytes(e, settings_)));
  log_result(formatted("memory   {} at most for a region", megabytes(largest)));  // with -q too
  if (settings_.decoupling && e.partition) {
    log_note(formatted(
        "links    busy for {:.2f} of the time, if every fragment is exchanged once in a period",
        link_use(e, settings_)));
  }
}

void declare(OptionTable& table) {
  declare_schedule_options(table);
  declare_fragment_options(table);
  declare_codec_options(table);
  declare_arrival_options(table);
  declare_merge_options(table);
  declare_region_options(table);
  declare_fault_options(table);
  declare_server_options(table);
}

std::vector<Listing> listings(const Catalogue& catalogue) {
  Listing methods{"method", "methods (method.name)", {}};
  for (const auto& [name, help, method] : catalogue.items()) {
    std::string details;
    for (const auto& [key, value] : method.defaults) details += formatted("{} = {}\n", key, value);
    methods.items.push_back({name, help, details});
  }
  return {methods};
}

}  // namespace

Protocol protocol(const Catalogue& catalogue) {
  return {.name = "regions",
          .help =
              "regions train without pause and exchange fragments of their differences to a shared "
              "copy",
          .declare = declare,
          .tables = {&regions_schema(), &exchanges_schema()},
          .list = [&catalogue] { return listings(catalogue); },
          .choose =
              [&catalogue](Config& config) {
                const Method& method = catalogue.get(config.text("method.name")).value;
                for (const auto& [key, value] : method.defaults) config.set_default(key, value);
              },
          .prepare =
              [](const Config& config, const Experiment& experiment) {
                return std::make_unique<Regions>(config, experiment);
              },
          .add_jobs =
              [](JobKinds& kinds, Residents& residents, const Config& config,
                 const Experiment& experiment) {
                add_region_jobs(
                    kinds, residents, experiment,
                    std::make_shared<RegionSettings>(region_settings(config, experiment)));
              }};
}

}  // namespace espalier::regions
