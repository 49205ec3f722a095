#include "espalier/protocol/split/costs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/base/units.h"
#include "espalier/device/emulated_time.h"
#include "espalier/engine/resources.h"
#include "espalier/train/penalty.h"
#include "espalier/train/task_cost.h"

namespace espalier::split {
namespace {

constexpr std::int64_t kLabelBytes = 4;

std::int64_t total(std::span<const std::int64_t> sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
}

void refuse_above(const DeviceClass& device, std::int64_t needed, const std::string& who,
                  const char* remedy) {
  const std::int64_t cap = memory_bytes(device);
  if (cap == 0 || needed <= cap) return;
  throw InputError(formatted("{} needs {}, but device.{}.memory_mb = {}: give it more, {}", who,
                             megabytes(needed), device.name, device.memory_mb, remedy));
}

}  // namespace

std::int64_t workers_of(const std::vector<ClusterPlan>& clusters) {
  std::int64_t workers = 0;
  for (const ClusterPlan& cluster : clusters) workers += std::ssize(cluster.workers);
  return workers;
}

std::vector<std::int64_t> batch_sizes(const ClusterPlan& cluster) {
  std::vector<std::int64_t> sizes;
  for (const WorkerPlan& worker : cluster.workers) sizes.push_back(worker.batch);
  return sizes;
}

std::int64_t merge_flops(std::int64_t bytes) {
  return kFlopsPerMergedValue * bytes / static_cast<std::int64_t>(sizeof(float));
}

Costs::Costs(const Experiment& experiment, const Parts& parts)
    : experiment_(experiment), parts_(parts), penalty_(penalty_cost(experiment, parts.bottom)) {}

const TrainingCost& Costs::cost(Cache& cache, const Submodel& part, std::int64_t batch) const {
  const auto found = cache.find(batch);
  if (found != cache.end()) return found->second;
  return cache.emplace(batch, task_cost(experiment_, LocalObjective(), part, batch)).first->second;
}

// Messages --------------------------------------------------------------------------------------

std::int64_t Costs::model_bytes() const {
  return has_features() ? bottom_bytes() + top(1).message_bytes : bottom_bytes();
}

std::int64_t Costs::label_bytes(std::int64_t samples) const {
  return samples * experiment_.model.shape.targets() * kLabelBytes;
}

std::int64_t Costs::down_bytes(std::int64_t samples) const {
  return has_features() ? feature_bytes(samples) : model_bytes();
}

std::int64_t Costs::up_bytes(std::int64_t samples) const {
  return has_features() ? feature_bytes(samples) + label_bytes(samples) : model_bytes();
}

std::int64_t Costs::merged_bytes(const ClusterPlan& cluster) const {
  if (!has_features() || cluster.host != kServer) return model_bytes();
  return model_bytes() + (std::ssize(cluster.workers) - 1) * bottom_bytes();
}

// Workers ---------------------------------------------------------------------------------------

std::int64_t Costs::batch_at(const WorkerPlan& worker, std::int64_t iteration) const {
  const std::int64_t samples = experiment_.samples_of(worker.client);
  if (parts_.drops_last) return std::min(worker.batch, samples);
  const std::int64_t per_epoch = (samples + worker.batch - 1) / worker.batch;
  return std::min(worker.batch, samples - iteration % per_epoch * worker.batch);
}

std::int64_t Costs::iterations(std::int64_t client, std::int64_t batch) const {
  std::int64_t samples = experiment_.samples_of(client);
  if (parts_.drops_last && samples > batch) samples -= samples % batch;
  const std::int64_t batches = workload(experiment_.train, batch, samples).steps;
  return (batches + parts_.local_steps - 1) / parts_.local_steps;
}

std::int64_t Costs::jobs(std::int64_t iterations) const {
  return has_features() ? iterations + 1 : iterations;
}

WorkerJob Costs::job(const DeviceClass& device, const WorkerPlan& worker, std::int64_t iterations,
                     std::int64_t number) const {
  if (has_features()) {
    return split_job(device, number == 0 ? 0 : batch_at(worker, number - 1),
                     number == iterations ? 0 : batch_at(worker, number));
  }
  std::vector<std::int64_t> sizes;
  for (std::int64_t step = 0; step < parts_.local_steps; ++step) {
    sizes.push_back(batch_at(worker, number * parts_.local_steps + step));
  }
  return model_job(device, worker.batch, sizes);
}

WholeJobs Costs::whole_jobs(const DeviceClass& device, std::int64_t batch) const {
  if (has_features()) {
    return {split_job(device, 0, batch), split_job(device, batch, batch),
            split_job(device, batch, 0)};
  }
  const std::vector<std::int64_t> sizes(static_cast<std::size_t>(parts_.local_steps), batch);
  const WorkerJob each = model_job(device, batch, sizes);
  return {each, each, {}};
}

/// The backward pass of a batch with `before` samples and the forward pass of one with `next`; 0:
/// there is none, and the bottom's weights are the message instead.
WorkerJob Costs::split_job(const DeviceClass& device, std::int64_t before,
                           std::int64_t next) const {
  WorkerJob job{.bytes_down = bottom_bytes(), .bytes_up = bottom_bytes(), .samples = next};
  if (before > 0) {
    job.bytes_down = down_bytes(before);
    job.flops += bottom(before).step_flops - bottom(before).forward_flops;
    job.compute += backward_time(device, before);
  }
  if (next > 0) {
    job.bytes_up = up_bytes(next);
    job.flops += bottom(next).forward_flops;
    job.compute += forward_time(device, next);
  }
  return job;
}

WorkerJob Costs::model_job(const DeviceClass& device, std::int64_t batch,
                           std::span<const std::int64_t> sizes) const {
  WorkerJob job{.bytes_down = model_bytes(), .bytes_up = model_bytes(), .samples = total(sizes)};
  for (const std::int64_t size : sizes) {
    job.flops += flops_of(step_costs(batch, size));
    job.compute = later(job.compute, step_time(device, batch, size));
  }
  return job;
}

/// The passes of a batch, in parts if train.accumulate says so, and its penalties.
std::vector<Steps> Costs::step_costs(std::int64_t batch, std::int64_t samples) const {
  std::vector<Steps> steps;
  for (const auto& [size, count] : passes_of(experiment_.train, batch, {{samples, 1}})) {
    steps.push_back({bottom(size), count});
  }
  if (has_penalty(experiment_.train)) steps.push_back({penalty_, 1});
  return steps;
}

Nanoseconds Costs::step_time(const DeviceClass& device, std::int64_t batch,
                             std::int64_t samples) const {
  return compute_time(device, step_costs(batch, samples));
}

Nanoseconds Costs::forward_time(const DeviceClass& device, std::int64_t batch) const {
  const TrainingCost& step = bottom(batch);
  const auto share = static_cast<double>(step.forward_flops) /
                     static_cast<double>(std::max<std::int64_t>(1, step.step_flops));
  return std::llround(share * static_cast<double>(step_time(device, batch, batch)));
}

Nanoseconds Costs::backward_time(const DeviceClass& device, std::int64_t batch) const {
  return step_time(device, batch, batch) - forward_time(device, batch);
}

// Hosts -----------------------------------------------------------------------------------------

/// Mixtures cost as much as the batch, with a second pass of the optimiser, which is not made.
std::vector<Steps> Costs::top_steps(std::span<const std::int64_t> sizes) const {
  if (parts_.step == TopStep::merged) return {{top(total(sizes)), 1}};
  if (parts_.step == TopStep::mixup) return {{top(total(sizes)), sizes.size() > 1 ? 2 : 1}};
  std::vector<Steps> steps;
  for (const std::int64_t size : sizes) steps.push_back({top(size), 1});
  return steps;
}

std::int64_t Costs::top_flops(std::span<const std::int64_t> sizes) const {
  if (!has_features()) return merge_flops(model_bytes()) * std::ssize(sizes);
  return flops_of(top_steps(sizes));
}

Nanoseconds Costs::top_time(const DeviceClass& device, std::span<const std::int64_t> sizes,
                            double slowdown) const {
  if (!has_features()) return compute_time(device, top_flops(sizes), slowdown);
  return compute_time(device, top_steps(sizes), slowdown);
}

std::int64_t Costs::closing_flops(std::int64_t workers) const {
  return has_features() ? merge_flops(bottom_bytes()) * workers : 0;
}

Nanoseconds Costs::top_done(const DeviceClass& device, std::vector<Arrival> batches,
                            double slowdown) const {
  std::ranges::stable_sort(batches, {}, &Arrival::time);
  Nanoseconds done = 0;
  std::vector<std::int64_t> sizes;
  for (const Arrival& batch : batches) {
    sizes.push_back(batch.samples);
    if (parts_.step != TopStep::accumulated) continue;
    done = later(std::max(done, batch.time), top_time(device, {&batch.samples, 1}, slowdown));
  }
  if (parts_.step == TopStep::accumulated) return done;
  return later(batches.back().time, top_time(device, sizes, slowdown));
}

// Memory ----------------------------------------------------------------------------------------

std::int64_t Costs::labels_in_memory(std::int64_t samples) const {
  return samples * experiment_.model.shape.targets() *
         static_cast<std::int64_t>(sizeof(std::int64_t));
}

/// Weights come and go alone; beside the batch of a bottom there are its features or their gradient
/// as a message.
std::int64_t Costs::bottom_memory(std::int64_t batch) const {
  const TrainingCost& step = bottom(part_size(experiment_.train, batch));
  const std::int64_t messages = has_features() ? feature_bytes(batch) + labels_in_memory(batch) : 0;
  return step.model_bytes + std::max(step.message_bytes, step.activation_bytes + messages);
}

std::int64_t Costs::top_memory(std::span<const std::int64_t> sizes) const {
  if (!has_features()) return (std::ssize(sizes) + 1) * model_bytes();  // and their mean
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
  const char* remedy = has_features() ? "choose another split.cut, or train with smaller batches"
                                      : "or choose a smaller model, batch or cluster";
  for (const ClusterPlan& cluster : plan.clusters) {
    for (const WorkerPlan& worker : cluster.workers) {
      refuse_above(
          experiment_.fleet->device(worker.client), bottom_memory(worker.batch),
          formatted("client {} with the {}", worker.client, has_features() ? "bottom" : "model"),
          remedy);
    }
    if (cluster.host == kServer) continue;
    refuse_above(experiment_.fleet->device(cluster.host), top_memory(batch_sizes(cluster)),
                 formatted("client {} with the {}", cluster.host,
                           has_features() ? "top" : "models of its workers"),
                 remedy);
  }
}

}  // namespace espalier::split
