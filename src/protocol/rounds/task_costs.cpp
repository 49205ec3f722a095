#include "espalier/protocol/rounds/task_costs.h"

#include <algorithm>
#include <set>
#include <vector>

#include "espalier/device/emulated_time.h"
#include "espalier/train/task_cost.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

/// Bytes of a task's description on the client's link. A submodel that the client knows by name is
/// charged with the name's bytes instead of its list of units.
std::int64_t description_bytes(const SentTask& sent) {
  const std::int64_t all = std::ssize(sent.task.encode());
  if (sent.name_bytes < 0) return all;
  const auto listed = std::ssize(sent.task.submodel.encode());
  return all - static_cast<std::int64_t>(sizeof(std::int64_t)) * listed + sent.name_bytes;
}

/// The cost model's message has one value for each weight of the model.
TrainingCost with_message(const Experiment& e, const TaskRules& rules, const Submodel& submodel,
                          TrainingCost cost) {
  const std::int64_t more = message_bytes(e, rules, submodel) - cost.message_bytes;
  cost.message_bytes += more;
  cost.peak_bytes += more;
  return cost;
}

}  // namespace

std::int64_t message_bytes(const Experiment& experiment, const TaskRules& rules,
                           const Submodel& submodel) {
  return rules.vectors * payload_bytes(*experiment.plans->buffer_layout(submodel, Packing::shared));
}

Peaks assignment_peaks(const Experiment& e, const TaskRules& rules, const Assignment& assigned,
                       std::int64_t client) {
  const std::int64_t batch = part_size(e.train, e.batch_of(client));
  const Submodel& sent = assigned.submodel;
  if (assigned.search == 0) {
    return {0, with_message(e, rules, sent, task_cost(e, *rules.objective, sent, batch))};
  }
  // A search may find a submodel as large as the sent one.
  const Submodel trained =
      rules.search->size_is_known() ? rules.search->expected(e.model, sent, assigned.search) : sent;
  return {with_message(e, rules, sent, search_cost(e, *rules.search, sent, batch)).peak_bytes,
          with_message(e, rules, trained, task_cost(e, *rules.objective, trained, batch))};
}

void set_identity(Flight& flight, const SentTask& sent) {
  flight.number = sent.task.task;
  flight.endpoint = sent.task.client;
  flight.is_answered = !sent.fault.crashes && !sent.fault.vanishes;
  flight.server_flops = kFlopsPerMergedValue * sent.buffer_layout->count(Kind::trainable);
}

const TrainingCost& TaskCosts::cost_of(Phase phase, const Submodel& submodel, std::int64_t batch) {
  auto [place, added] = costs_.try_emplace({phase, submodel.hash(), batch});
  if (added) {
    place->second =
        phase == Phase::search     ? search_cost(experiment_, *rules_.search, submodel, batch)
        : phase == Phase::training ? task_cost(experiment_, *rules_.objective, submodel, batch)
        : phase == Phase::forward  ? forward_cost(experiment_.model, submodel, batch)
                                   : penalty_cost(experiment_, submodel);
  }
  return place->second;
}

Flight TaskCosts::flight_alone(const Assignment& assigned, std::int64_t client,
                               std::int64_t frozen_values) {
  SentTask sent;
  sent.task.client = client;
  sent.task.submodel = assigned.submodel;
  sent.task.search = assigned.search;
  sent.name_bytes = assigned.name_bytes;
  sent.traffic = assigned.traffic;
  sent.buffer_layout = experiment_.plans->buffer_layout(assigned.submodel, Packing::shared);
  sent.frozen_values = frozen_values;
  return flight_on(experiment_.fleet->device(client), sent, 0);
}

Nanoseconds TaskCosts::update_time(const Assignment& assigned, std::int64_t client) {
  const Flight flight = flight_alone(assigned, client, 0);
  return later(later(flight.download, flight.compute), flight.upload);
}

Flight TaskCosts::first_flight(const Assignment& assigned, std::int64_t client) {
  return flight_alone(
      assigned, client,
      experiment_.frozen ? frozen_values(experiment_.model.layout, assigned.submodel) : 0);
}

Flight TaskCosts::flight_of(const SentTask& sent, Nanoseconds now) {
  return flight_on(experiment_.fleet->device_at(sent.task.client, sent.task.base_version), sent,
                   now);
}

Flight TaskCosts::flight_on(const DeviceClass& device, const SentTask& sent, Nanoseconds now) {
  const ClientTask& task = sent.task;
  const bool searches = task.search > 0;
  Flight flight;
  set_identity(flight, sent);
  flight.is_bounded = searches && !rules_.search->size_is_known();
  flight.bytes_down =
      sent.traffic ? rules_.vectors * sent.traffic->received
                   : rules_.vectors * payload_bytes(*sent.buffer_layout) + description_bytes(sent);
  flight.bytes_down += sent.frozen_values * static_cast<std::int64_t>(sizeof(float));
  flight.sent = now;
  flight.download = transfer_time(device.down_mbps, device.latency_ms, flight.bytes_down);
  if (flight.is_answered && !fits({task.submodel, sent.width, task.search}, task.client)) {
    flight.failure_upload = transfer_time(device.up_mbps, device.latency_ms, answer_bytes());
  }
  const Submodel trained =
      searches ? rules_.search->expected(experiment_.model, task.submodel, task.search)
               : task.submodel;
  charge(device, sent, trained, batches_of(sent), flight);
  return flight;
}

TaskCosts::Batches TaskCosts::batches_of(const SentTask& sent) const {
  const std::int64_t client = sent.task.client;
  if (sent.task.search == 0) return {{}, experiment_.workload_of(client)};
  return {rules_.search->workload(experiment_, client),
          rules_.search->training(experiment_, client)};
}

bool TaskCosts::fits(const Assignment& assigned, std::int64_t client) {
  const std::int64_t cap = memory_bytes(experiment_.fleet->device(client));
  if (cap == 0) return true;
  const auto [place, added] = peaks_.try_emplace(
      {assigned.submodel.hash(), assigned.search, experiment_.batch_of(client)}, 0);
  if (added) place->second = assignment_peaks(experiment_, rules_, assigned, client).largest();
  return place->second <= cap;
}

void TaskCosts::settle(const SentTask& sent, const ClientResult& result, Flight& flight) {
  if (!result.out_of_memory && !flight.is_bounded) return;
  const std::int64_t client = sent.task.client;
  const DeviceClass device = experiment_.fleet->device_at(client, sent.task.base_version);
  const Submodel trained = result.found.empty()
                               ? sent.task.submodel
                               : Submodel::decode(*experiment_.model.layout, result.found);
  Batches batches = batches_of(sent);
  if (result.out_of_memory) {
    const auto first = [&](std::int64_t steps) {
      return first_steps(experiment_.train, experiment_.batch_of(client),
                         experiment_.samples_of(client), steps);
    };
    const std::int64_t begun = result.begun_steps();
    const std::int64_t searched = std::min(begun, batches.search.steps);
    batches = {first(searched), first(begun - searched)};
  }
  charge(device, sent, trained, batches, flight);
  if (!result.out_of_memory) return;
  flight.bytes_up = answer_bytes();
  flight.upload = transfer_time(device.up_mbps, device.latency_ms, flight.bytes_up);
  flight.server_flops = 0;
}

void TaskCosts::charge(const DeviceClass& device, const SentTask& sent, const Submodel& trained,
                       const Batches& batches, Flight& flight) {
  std::vector<Steps> steps;
  const auto add_passes = [&](Phase phase, const Submodel& submodel, Workload::Passes passes) {
    steps.push_back({cost_of(phase, submodel, passes.size), passes.count});
  };
  flight.bytes_up = answer_bytes() + message_bytes(experiment_, rules_, trained);
  if (sent.task.search > 0) {
    for (const auto& passes : batches.search.passes) {
      add_passes(Phase::search, sent.task.submodel, passes);
    }
    flight.bytes_up += rules_.search->answer_bytes(experiment_.model, sent.task.submodel);
  }
  for (const SubmodelPasses& made :
       rules_.objective->passes(experiment_, sent.task, trained, batches.training)) {
    add_passes(made.forward_only ? Phase::forward : Phase::training, made.submodel, made.passes);
  }
  add_passes(Phase::penalty, trained, {0, batches.training.steps});
  if (sent.traffic) flight.bytes_up = rules_.vectors * sent.traffic->sent;
  flight.flops = flops_of(steps);
  flight.compute = compute_time(device, steps, sent.fault.slowdown);
  flight.upload = transfer_time(device.up_mbps, device.latency_ms, flight.bytes_up);
}

void refuse_endless_tasks(const Experiment& experiment, const LocalObjective& objective,
                          const ClockSettings& clock) {
  const auto full = Submodel::full(*experiment.model.layout);
  const auto dense = experiment.plans->buffer_layout(full, Packing::shared);
  const std::int64_t values = payload_bytes(*dense);
  const std::int64_t bytes = values + frozen_values(experiment.model.layout, full) *
                                          static_cast<std::int64_t>(sizeof(float));
  ServerResources server = clock.server;
  server.down.take(0, bytes);
  server.up.take(0, values);
  server.processor.take(0, kFlopsPerMergedValue * dense->count(Kind::trainable));
  const Fleet& fleet = *experiment.fleet;
  std::set<const DeviceClass*> seen;
  for (std::int64_t client = 0; client < fleet.size(); ++client) {
    const DeviceClass& device = fleet.device(client);
    if (!seen.insert(&device).second) continue;
    const Nanoseconds transfers = transfer_time(device.down_mbps, device.latency_ms, bytes) +
                                  transfer_time(device.up_mbps, device.latency_ms, values);
    if (!experiment.partition) continue;
    const std::int64_t batch = part_size(experiment.train, experiment.batch_of(client));
    const TrainingCost cost = task_cost(experiment, objective, full, batch);
    const Steps steps[] = {{cost, experiment.workload_of(client).steps}};
    within_century(later(transfers, compute_time(device, steps)),
                   formatted("device.{0}.down_mbps, device.{0}.up_mbps, device.{0}.latency_ms and "
                             "device.{0}.gflops",
                             device.name));
  }
}

}  // namespace espalier::rounds
