#include "espalier/protocol/split/costs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/train/task_cost.h"

namespace espalier::split {
namespace {

constexpr std::int64_t kLabelBytes = 4;

std::int64_t total(std::span<const std::int64_t> sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
}

void refuse_above(const DeviceClass& device, std::int64_t needed, const std::string& who) {
  const std::int64_t cap = memory_bytes(device);
  if (cap == 0 || needed <= cap) return;
  throw InputError(
      formatted("{} needs {:.3f} MB, but device.{}.memory_mb = {}: give it more, choose another "
                "split.cut, or "
                "train with smaller batches",
                who, static_cast<double>(needed) * 1e-6, device.name, device.memory_mb));
}

}  // namespace

std::vector<std::int64_t> batch_sizes(const ClusterPlan& cluster) {
  std::vector<std::int64_t> sizes;
  for (const WorkerPlan& worker : cluster.workers) sizes.push_back(worker.batch);
  return sizes;
}

Costs::Costs(const Experiment& experiment, const Parts& parts)
    : experiment_(experiment), parts_(parts) {}

const TrainingCost& Costs::cost(Cache& cache, const Submodel& part, std::int64_t batch) const {
  const auto found = cache.find(batch);
  if (found != cache.end()) return found->second;
  return cache.emplace(batch, task_cost(experiment_, LocalObjective(), part, batch)).first->second;
}

std::int64_t Costs::label_bytes(std::int64_t samples) const {
  return samples * experiment_.model.shape.targets() * kLabelBytes;
}

std::int64_t Costs::labels_in_memory(std::int64_t samples) const {
  return samples * experiment_.model.shape.targets() *
         static_cast<std::int64_t>(sizeof(std::int64_t));
}

std::int64_t Costs::batch_at(const WorkerPlan& worker, std::int64_t iteration) const {
  const std::int64_t samples = experiment_.samples_of(worker.client);
  if (parts_.drops_last) return std::min(worker.batch, samples);
  const std::int64_t per_epoch = (samples + worker.batch - 1) / worker.batch;
  return std::min(worker.batch, samples - iteration % per_epoch * worker.batch);
}

std::int64_t Costs::batches(std::int64_t client, std::int64_t batch) const {
  std::int64_t samples = experiment_.samples_of(client);
  if (parts_.drops_last && samples > batch) samples -= samples % batch;
  return workload(experiment_.train, batch, samples).steps;
}

Nanoseconds Costs::forward_time(const DeviceClass& device, std::int64_t batch) const {
  const TrainingCost& step = bottom(batch);
  const auto share = static_cast<double>(step.forward_flops) /
                     static_cast<double>(std::max<std::int64_t>(1, step.step_flops));
  const Steps one[] = {{step, 1}};
  return std::llround(share * static_cast<double>(compute_time(device, one)));
}

Nanoseconds Costs::backward_time(const DeviceClass& device, std::int64_t batch) const {
  const Steps one[] = {{bottom(batch), 1}};
  return compute_time(device, one) - forward_time(device, batch);
}

/// Mixtures cost as much as the batch, with a second pass of the optimiser, which is not made.
std::vector<Steps> Costs::top_steps(std::span<const std::int64_t> sizes) const {
  if (parts_.step == TopStep::merged) return {{top(total(sizes)), 1}};
  if (parts_.step == TopStep::mixup) return {{top(total(sizes)), sizes.size() > 1 ? 2 : 1}};
  std::vector<Steps> steps;
  for (const std::int64_t size : sizes) steps.push_back({top(size), 1});
  return steps;
}

std::int64_t Costs::top_flops(std::span<const std::int64_t> sizes) const {
  std::int64_t flops = 0;
  for (const Steps& steps : top_steps(sizes)) flops += steps.count * steps.cost.step_flops;
  return flops;
}

Nanoseconds Costs::top_time(const DeviceClass& device, std::span<const std::int64_t> sizes,
                            double slowdown) const {
  return compute_time(device, top_steps(sizes), slowdown);
}

Nanoseconds Costs::top_done(const DeviceClass& device, std::vector<Arrival> batches,
                            double slowdown) const {
  std::ranges::stable_sort(batches, {}, &Arrival::time);
  Nanoseconds done = 0;
  std::vector<std::int64_t> sizes;
  for (const Arrival& batch : batches) {
    sizes.push_back(batch.samples);
    if (parts_.step != TopStep::accumulated) continue;
    done = std::max(done, batch.time) + top_time(device, {&batch.samples, 1}, slowdown);
  }
  if (parts_.step == TopStep::accumulated) return done;
  return batches.back().time + top_time(device, sizes, slowdown);
}

/// Weights come and go alone; beside a batch there are its features or their gradient as a message.
std::int64_t Costs::bottom_memory(std::int64_t batch) const {
  const TrainingCost& step = bottom(batch);
  const std::int64_t messages = feature_bytes(batch) + labels_in_memory(batch);
  return step.model_bytes + std::max(step.message_bytes, step.activation_bytes + messages);
}

std::int64_t Costs::top_memory(std::span<const std::int64_t> sizes) const {
  const std::int64_t samples = total(sizes);
  const bool is_mixup = parts_.step == TopStep::mixup;
  const bool is_whole = is_mixup || parts_.step == TopStep::merged;
  const std::int64_t largest = is_whole ? samples : *std::ranges::max_element(sizes);
  const TrainingCost& step = top(largest);
  // The features come as a message. Batch by batch, those of all workers and their gradients are
  // there beside a pass of one batch, and beside mixtures. The losses of each worker are computed
  // before the backward pass, and need less than it.
  // A mixture has two losses, of two lists of labels.
  const std::int64_t mixture_losses =
      2 * logits_bytes(experiment_, samples) + labels_in_memory(samples);
  const std::int64_t beside =
      (is_whole && !is_mixup ? 1 : 3) * feature_bytes(samples) + (is_mixup ? mixture_losses : 0);
  const std::int64_t answering = 4 * feature_bytes(samples);  // both as tensors and as messages
  return step.model_bytes + std::max({step.message_bytes, answering + labels_in_memory(samples),
                                      step.activation_bytes + beside + labels_in_memory(samples)});
}

void Costs::refuse_little_memory(const RoundPlan& plan) const {
  for (const ClusterPlan& cluster : plan.clusters) {
    for (const WorkerPlan& worker : cluster.workers) {
      refuse_above(experiment_.fleet->device(worker.client), bottom_memory(worker.batch),
                   formatted("client {} with the bottom", worker.client));
    }
    if (cluster.host == kServer) continue;
    refuse_above(experiment_.fleet->device(cluster.host), top_memory(batch_sizes(cluster)),
                 formatted("client {} with the top", cluster.host));
  }
}

}  // namespace espalier::split
