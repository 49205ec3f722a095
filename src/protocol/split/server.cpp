#include "espalier/protocol/split/server.h"

#include <iterator>

#include "espalier/base/error.h"
#include "espalier/base/kill_point.h"
#include "espalier/engine/faults.h"
#include "espalier/protocol/split/recorder.h"

namespace espalier::split {
namespace {

void refuse_faults(const Config& config) {
  for (const char* fault :
       {"faults.crash", "faults.vanish", "faults.late", "faults.twice", "faults.not_finite"}) {
    if (config.real(fault) > 0) {
      throw InputError(formatted(
          "{} is for methods of rounds and regions: leave it out, or choose one of those", fault));
    }
  }
}

void refuse_absent_devices(const Fleet& fleet) {
  for (std::int64_t client = 0; client < fleet.size(); ++client) {
    const DeviceClass& device = fleet.device(client);
    if (device.availability == 1) continue;
    throw InputError(formatted("device.{}.availability = {} is for methods of rounds: leave it out",
                               device.name, device.availability));
  }
}

/// Byte strings with their keys.
void archive_states(Archive& archive, const char* name, std::map<std::int64_t, Bytes>& states) {
  std::vector<std::pair<std::int64_t, Bytes>> items(std::make_move_iterator(states.begin()),
                                                    std::make_move_iterator(states.end()));
  archive_list(archive, name, items, [](Archive& a, std::pair<std::int64_t, Bytes>& item) {
    a.value("number", item.first);
    a.value("state", item.second);
  });
  states = {std::make_move_iterator(items.begin()), std::make_move_iterator(items.end())};
}

}  // namespace

void declare_server_options(OptionTable& table) {
  table.add({"record.iterations", OptionType::boolean, "false",
             "split: record each iteration of each cluster in the table /iterations"});
}

ServerSettings server_settings(const Config& config, const Experiment& experiment) {
  const auto parts = std::make_shared<const Parts>(make_parts(config, experiment));
  refuse_faults(config);
  refuse_absent_devices(*experiment.fleet);
  return {.parts = parts,
          .costs = std::make_shared<const Costs>(experiment, *parts),
          .clock = clock_settings(config, *experiment.fleet),
          .record_iterations = config.boolean("record.iterations")};
}

SplitServer::SplitServer(const Experiment& experiment, ServerSettings settings,
                         std::unique_ptr<Control> control, Parameters model, Run& run)
    : experiment_(experiment),
      settings_(std::move(settings)),
      run_(run),
      control_(std::move(control)),
      model_(std::move(model)),
      links_(*experiment.fleet, settings_.clock.server),
      labels_(label_shares(experiment)) {
  state_.tasks_of.assign(static_cast<std::size_t>(experiment.fleet->size()), 0);
  ClockSettings clock = settings_.clock;
  clock.server = ServerResources();  // the links have the server's
  clock_ = make_clock(clock, run.pool(), run.real_time());
}

void SplitServer::advance() {
  if (!round_) {
    const Stopwatch busy = run_.busy();
    begin_round();
    return;
  }
  std::optional<Clock::Event> event;
  run_.heed_stops([&] { event = clock_->next({}); });
  const Stopwatch busy = run_.busy();
  round_->take(*event);
  if (round_->has_ended()) end_round();
}

void SplitServer::begin_round() {
  RoundPlan plan = control_->plan(state_.version);
  settings_.costs->refuse_little_memory(plan);
  RoundStart start{.version = state_.version, .now = state_.now};
  start.bottom = weights_of(settings_.parts->bottom);
  start.top = settings_.parts->exchange == Exchange::models ? start.bottom
                                                            : weights_of(settings_.parts->top);
  start.nth_task = state_.tasks_of;
  start.states = &state_.optimizers;
  round_ = std::make_unique<Round>(experiment_, *settings_.parts, *settings_.costs, *clock_, links_,
                                   std::move(plan), std::move(start));
  clock_->on_arrival([this](Answer& answer) { round_->arrived(answer); });
  round_->begin();
}

void SplitServer::end_round() {
  clock_->on_arrival({});
  const std::unique_ptr<Round> round = std::move(round_);
  record(run_.records(), *round, labels_, settings_.record_iterations);
  merge(experiment_, *settings_.parts, *round, model_);
  double loss_sum = 0;
  std::int64_t samples = 0;
  for (const Round::Worker& worker : round->workers()) {
    const auto client = static_cast<std::size_t>(worker.plan.client);
    ++state_.tasks_of[client];
    loss_sum += worker.loss_sum;
    samples += worker.samples;
    if (keeps_optimizer(experiment_.train)) {
      state_.optimizers.bottoms[worker.plan.client] = worker.result.optimizer;
    }
  }
  for (const Round::Cluster& cluster : round->clusters()) {
    state_.server_bytes_up += cluster.server_bytes_up;
    state_.server_bytes_down += cluster.server_bytes_down;
    state_.device_bytes += cluster.device_bytes;
    if (keeps_optimizer(experiment_.train)) {
      state_.optimizers.tops[&cluster - round->clusters().data()] = cluster.result.optimizer;
    }
  }
  control_->observe(round->observations());
  links_ = round->links();
  state_.now = round->ended();
  ++state_.version;
  run_.report({state_.version, state_.now, loss_sum / static_cast<double>(samples)});
  kill_point("split.version");
  run_.made_version(state_.version, state_.now, model_);
}

SharedBytes SplitServer::weights_of(const Submodel& part) const {
  const auto dense = experiment_.plans->buffer_layout(part, Packing::dense);
  return pack_payload(*experiment_.plans, model_, *dense);
}

std::string SplitServer::summary() const {
  const auto megabytes = [](std::int64_t bytes) { return static_cast<double>(bytes) * 1e-6; };
  return formatted("up_mb={:.3f} down_mb={:.3f} device_mb={:.3f}",
                   megabytes(state_.server_bytes_up), megabytes(state_.server_bytes_down),
                   megabytes(state_.device_bytes));
}

void SplitServer::archive(Archive& archive) {
  archive.open("split");
  archive.value("version", state_.version);
  archive.value("now", state_.now);
  archive.value("tasks_of", state_.tasks_of);
  archive.value("server_bytes_up", state_.server_bytes_up);
  archive.value("server_bytes_down", state_.server_bytes_down);
  archive.value("device_bytes", state_.device_bytes);
  archive_states(archive, "bottom_optimizers", state_.optimizers.bottoms);
  archive_states(archive, "top_optimizers", state_.optimizers.tops);
  archive.open("links");
  links_.archive(archive);
  archive.close();
  archive.open("control");
  control_->archive(archive);
  archive.close();
  archive.close();
}

}  // namespace espalier::split
