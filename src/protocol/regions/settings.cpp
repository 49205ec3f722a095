#include "espalier/protocol/regions/settings.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/units.h"
#include "espalier/config/choice.h"
#include "espalier/protocol/regions/step_times.h"
#include "espalier/train/task_cost.h"

namespace espalier::regions {
namespace {

constexpr const char* kWeights[] = {"uniform", "samples", "tokens", "tokens_per_step"};

/// Times of the slowest region's step and of one exchange of the largest fragment.
ExchangeTimes exchange_times(const Experiment& e, const ServerSettings& s) {
  std::int64_t bytes = 0;
  for (const Fragment& fragment : s.regions.fragments) {
    bytes = std::max(bytes, encoded_bytes(s.regions.codec, fragment.tensors));
  }
  const std::vector<DeviceClass> devices = devices_of(*e.fleet);
  Nanoseconds both_ways = 0;
  for (const DeviceClass& d : devices) {
    both_ways = std::max(both_ways, transfer_time(d.up_mbps, d.latency_ms, bytes) +
                                        transfer_time(d.down_mbps, d.latency_ms, bytes));
  }
  return {seconds(StepTimes(e).of_slowest(0, 1)),
          seconds(s.topology == Topology::ring ? ring_time(devices, bytes) : both_ways)};
}

void refuse_unused_faults(const Config& config) {
  for (const char* fault : {"faults.twice", "faults.not_finite"}) {
    if (config.real(fault) > 0) {
      throw InputError(formatted(
          "{} is for methods of rounds; regions have faults.crash, faults.vanish, faults.late and "
          "faults.lost",
          fault));
    }
  }
}

/// Whether regions may fail, be away, or lose messages.
bool may_fail(const Config& config, const Fleet& fleet) {
  const auto is_set = [&](const char* fault) { return config.real(fault) > 0; };
  return is_set("faults.crash") || is_set("faults.vanish") || is_set("faults.lost") ||
         !config.text("clients.availability_trace").empty() ||
         std::ranges::any_of(devices_of(fleet),
                             [](const DeviceClass& d) { return d.availability < 1; });
}

void refuse_failures(const Config& config, const Fleet& fleet, const RegionSettings& settings) {
  if (!may_fail(config, fleet)) return;
  const char* faults =
      "faults.crash, faults.vanish, faults.lost and regions that are away (availability)";
  if (settings.gradients) {
    throw InputError(formatted(
        "{} do not work with regions.exchange = gradients, because all replicas must stay equal: "
        "leave them out, or choose another method",
        faults));
  }
  if (settings.local_base) {
    throw InputError(formatted(
        "{} do not work with regions.base = local, because each region has a base of its own: "
        "leave them out, or set regions.base = shared",
        faults));
  }
}

std::optional<Decoupling> decoupling_of(const Config& config, const Fleet& fleet,
                                        const ServerSettings& s) {
  if (!config.boolean("regions.decoupled")) return std::nullopt;
  if (s.topology != Topology::star || s.regions.gradients || s.regions.local_base ||
      config.integer("regions.overlap") > 0 || s.regions.shows_replicas) {
    throw InputError(
        "regions.decoupled needs regions.topology = star, regions.exchange = values, regions.base "
        "= "
        "shared, regions.overlap = 0 and regions.evaluate = shared: regions that never wait have "
        "no common steps");
  }
  const Decoupling d{config.integer("regions.quorum"), config.real("regions.grace")};
  if (d.quorum > fleet.size()) {
    throw InputError(formatted("regions.quorum = {} is more than the {} regions: set at most {}",
                               d.quorum, fleet.size(), fleet.size()));
  }
  return d;
}

void refuse_statistics(const Experiment& e) {
  const bool has_statistics = std::ranges::any_of(
      e.model.layout->entries, [](const Entry& entry) { return entry.kind == Kind::statistic; });
  if (has_statistics) {
    throw InputError(
        "regions.evaluate = replicas does not work with batch norm, because the mean of replicas "
        "has no statistics of its own: set model.norm to another, or regions.evaluate = shared");
  }
}

void refuse_little_memory(const Experiment& e, const RegionSettings& settings) {
  for (std::int64_t region = 0; region < e.fleet->size(); ++region) {
    const DeviceClass& device = e.fleet->device(region);
    const std::int64_t cap = memory_bytes(device);
    const std::int64_t needed = region_bytes(e, settings, part_size(e.train, e.batch_of(region)));
    if (cap > 0 && needed > cap) {
      throw InputError(
          formatted("region {} needs {}, but device.{}.memory_mb = {}: give it more, or train a "
                    "smaller model or batch",
                    region, megabytes(needed), device.name, device.memory_mb));
    }
  }
}

}  // namespace

std::vector<DeviceClass> devices_of(const Fleet& fleet) {
  std::vector<DeviceClass> devices;
  for (std::int64_t region = 0; region < fleet.size(); ++region) {
    devices.push_back(fleet.device(region));
  }
  return devices;
}

void declare_server_options(OptionTable& table) {
  table.add_choice(
      "regions.topology", "star",
      "way of the fragments: through the server's links (star), or averaged by the regions "
      "among themselves (ring, an all-reduce)",
      {"star", "ring"});
  table.add_choice("regions.weights", "uniform",
                   "weight of a region in a merge: equal; by its samples; by the tokens that it "
                   "trained since its last exchange of the fragment; or by these times the tokens "
                   "of a step",
                   {std::begin(kWeights), std::end(kWeights)});
  table.add({"regions.lock_step", OptionType::boolean, "false",
             "every step of every region takes as long as that of the slowest region"});
  table.add_choice("regions.evaluate", "shared",
                   "model of the evaluations: the shared copy, or the mean of the regions' "
                   "replicas at the end of a period",
                   {"shared", "replicas"});
  table.add({"regions.decoupled", OptionType::boolean, "false",
             "regions never wait: the server asks for fragments and merges those that come in "
             "time"});
  table.add({"regions.quorum", OptionType::integer, "1",
             "regions.decoupled: regions whose values a merge needs", "", 1, 1e6});
  table.add(
      {"regions.grace", OptionType::real, "1",
       "regions.decoupled: fraction of the time until the next fragment, at most a step, that a "
       "merge with its quorum waits for further regions",
       "", 0, 1});
  table.add(
      {"faults.lost", OptionType::real, "0",
       "regions: fraction of messages that are lost: the merge goes without the region, which "
       "goes on with its own values",
       "", 0, 1});
}

ServerSettings server_settings(const Config& config, const Experiment& experiment) {
  ServerSettings s{.regions = region_settings(config, experiment),
                   .schedule = {},
                   .merge = merge_settings(config),
                   .faults = Faults(config),
                   .lost = config.real("faults.lost"),
                   .availability = Availability(config, *experiment.fleet),
                   .clock = clock_settings(config, *experiment.fleet)};
  if (config.text("regions.topology") == "ring") s.topology = Topology::ring;
  s.weights = choice<Weights>(config, "regions.weights", kWeights);
  s.lock_step = config.boolean("regions.lock_step");
  if (s.regions.shows_replicas) refuse_statistics(experiment);
  s.evaluate_every = config.integer("record.evaluate_every");
  s.decoupling = decoupling_of(config, *experiment.fleet, s);
  refuse_unused_faults(config);
  refuse_failures(config, *experiment.fleet, s.regions);
  refuse_little_memory(experiment, s.regions);
  const ExchangeTimes times =
      experiment.partition ? exchange_times(experiment, s) : ExchangeTimes{};
  s.schedule = schedule_settings(config, std::ssize(s.regions.fragments), times);
  return s;
}

std::int64_t region_bytes(const Experiment& e, const RegionSettings& settings, std::int64_t batch) {
  const Submodel full = Submodel::full(*e.model.layout);
  const TrainingCost cost = task_cost(e, LocalObjective(), full, batch);
  const std::int64_t copy = weight_bytes(e, full);
  std::int64_t largest = 0;
  for (const Fragment& fragment : settings.fragments) {
    largest = std::max(largest, fragment.values() * static_cast<std::int64_t>(sizeof(float)));
  }
  // While fragments are applied or sent there are no activations, but a message and its values.
  const std::int64_t copies = settings.shows_replicas ? 3 : 2;
  const std::int64_t messages = cost.model_bytes + copies * cost.message_bytes + 2 * largest;
  const std::int64_t sent = settings.keeps_sent_values() ? cost.message_bytes : 0;
  return std::max(cost.peak_bytes, messages) + copy + sent;
}

}  // namespace espalier::regions
