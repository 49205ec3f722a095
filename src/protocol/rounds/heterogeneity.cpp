#include "espalier/protocol/rounds/heterogeneity.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "espalier/device/emulated_time.h"

namespace espalier::rounds {
namespace {

constexpr double kNanosecondsPerSecond = 1e9;

Nanoseconds time_of(const Flight& update) {
  const Nanoseconds transfers = later(update.download, update.upload);
  return std::max<Nanoseconds>(1, later(transfers, update.compute));
}

/// The mean update time of the clients, in nanoseconds.
double mean_time(FullUpdates& updates, std::int64_t clients) {
  double sum = 0;
  for (std::int64_t client = 0; client < clients; ++client) {
    sum += static_cast<double>(time_of(updates.of(client)));
  }
  return sum / static_cast<double>(clients);
}

/// The part of an update that no link shortens: compute time and two latencies, in nanoseconds.
double time_without_link(const Flight& update, const DeviceClass& device) {
  return static_cast<double>(update.compute) + 2 * device.latency_ms * 1e6;
}

/// That part of a client's update, in nanoseconds, and its target time over that of the fastest.
struct LinklessTime {
  std::int64_t client = 0;
  double factor = 1;
  double time = 0;
  /// The time of the fastest client above which this client has a link.
  double needed() const { return time / factor; }
};

std::string refusal(const LinklessTime& worst, double fastest, const Fleet& fleet) {
  return formatted(
      "clients.spread gives client {} {:.6g} s for an update of the full model, and computing and "
      "two latencies on its device '{}' alone take {:.6g} s: set clients.fastest_s above {:.6g}, "
      "or give the device more gflops",
      worst.client, fastest * worst.factor / kNanosecondsPerSecond, fleet.device(worst.client).name,
      worst.time / kNanosecondsPerSecond, worst.needed() / kNanosecondsPerSecond);
}

}  // namespace

FullUpdates::FullUpdates(const Experiment& experiment)
    : experiment_(experiment),
      costs_(experiment, TaskRules{std::make_shared<LocalObjective>(), nullptr}) {
  sent_.task.submodel = Submodel::full(*experiment.model.layout);
  sent_.buffer_layout = experiment.plans->buffer_layout(sent_.task.submodel, Packing::shared);
}

const Flight& FullUpdates::of(std::int64_t client) {
  const DeviceClass& device = experiment_.fleet->device(client);
  const auto [place, added] =
      flights_.try_emplace({&device, experiment_.samples_of(client)}, Flight{});
  if (added) {
    sent_.task.client = client;
    place->second = costs_.flight_on(device, sent_, 0);
  }
  return place->second;
}

std::optional<Heterogeneity> heterogeneity(const Experiment& experiment) {
  if (!experiment.partition) return {};
  FullUpdates updates(experiment);
  const std::int64_t clients = experiment.fleet->size();
  Heterogeneity h{.shortest = std::numeric_limits<Nanoseconds>::max()};
  for (std::int64_t client = 0; client < clients; ++client) {
    const Nanoseconds time = time_of(updates.of(client));
    h.shortest = std::min(h.shortest, time);
    h.longest = std::max(h.longest, time);
  }
  const auto shortest = static_cast<double>(h.shortest);
  h.sigma = static_cast<double>(h.longest) / shortest;
  double sum = 0;
  for (std::int64_t client = 0; client < clients; ++client) {
    sum += 1 - shortest / static_cast<double>(time_of(updates.of(client)));
  }
  h.mean_idle = sum / static_cast<double>(clients);
  return h;
}

std::string description(const std::optional<Heterogeneity>& h) {
  if (!h) return "updates  times of the full model (and clients.spread) follow from the data";
  return formatted("updates  of the full model take {:.4g} to {:.4g} s, sigma {:.4g}, H {:.4g}",
                   seconds(h->shortest), seconds(h->longest), h->sigma, h->mean_idle);
}

const TableSchema& fleet_schema() {
  static const TableSchema schema{
      "/method/fleet",
      {
          {"shortest_s", ColumnType::real, "s",
           "shortest update time of the full model on a client's device: download, compute, "
           "upload"},
          {"longest_s", ColumnType::real, "s", "longest of these times"},
          {"sigma", ColumnType::real, "1", "longest / shortest"},
          {"heterogeneity", ColumnType::real, "1",
           "mean of 1 - shortest / own time; 0 if all times are equal"},
      }};
  return schema;
}

void record(RunFile& records, const Heterogeneity& h) {
  Row row(fleet_schema());
  row.set("shortest_s", seconds(h.shortest))
      .set("longest_s", seconds(h.longest))
      .set("sigma", h.sigma)
      .set("heterogeneity", h.mean_idle);
  records.append(row);
}

void declare_spread_options(OptionTable& table) {
  table.add_choice(
      "clients.spread", "none",
      "links of the clients; none: those of their devices; linear: such that their update times of "
      "the full model are evenly spaced, and client 0 is the fastest",
      {"none", "linear"});
  table.add({"clients.sigma", OptionType::real, "2",
             "with clients.spread = linear: longest / shortest update time of the full model", "",
             1, 1e6});
  table.add({"clients.fastest_s", OptionType::real, "0",
             "with clients.spread = linear: update time of the full model on the fastest client; "
             "0 = the mean of all clients with the links of their devices",
             "s", 0, 1e9});
}

void spread_links(const Config& config, Experiment& experiment) {
  if (config.text("clients.spread") == "none") return;
  const double sigma = config.real("clients.sigma");
  double fastest = config.real("clients.fastest_s") * kNanosecondsPerSecond;
  Fleet& fleet = *experiment.fleet;
  const std::int64_t clients = fleet.size();
  if (clients < 2) {
    throw InputError(
        "clients.spread = linear needs at least two clients: set clients.count to 2 or more, or "
        "clients.spread to none");
  }
  if (!experiment.partition) return;
  FullUpdates updates(experiment);
  if (fastest == 0) fastest = mean_time(updates, clients);
  if (!(fastest * sigma <= kHundredYears)) {
    throw InputError(
        formatted("with clients.sigma = {} an update of the slowest client would take more than "
                  "100 years: lower clients.sigma or clients.fastest_s",
                  sigma));
  }
  // The rates are all computed before the first is set, because that moves the devices.
  std::vector<double> rates;
  std::optional<LinklessTime> worst;
  for (std::int64_t client = 0; client < clients; ++client) {
    const double factor =
        1 + (sigma - 1) * static_cast<double>(client) / static_cast<double>(clients - 1);
    const Flight& update = updates.of(client);
    const LinklessTime rest{client, factor, time_without_link(update, fleet.device(client))};
    if (!worst || rest.needed() > worst->needed()) worst = rest;
    rates.push_back(
        transfer_mbps(update.bytes_down + update.bytes_up, fastest * factor - rest.time));
  }
  if (worst->needed() >= fastest) throw InputError(refusal(*worst, fastest, fleet));
  for (std::int64_t client = 0; client < clients; ++client) {
    fleet.set_link_rates(client, rates[static_cast<std::size_t>(client)]);
  }
}

}  // namespace espalier::rounds
