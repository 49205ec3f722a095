#include "espalier/protocol/split/top.h"

#include <c10/core/GradMode.h>

#include <numeric>

#include "espalier/base/coded.h"
#include "espalier/base/kill_point.h"
#include "espalier/device/charge.h"
#include "espalier/protocol/split/bottom.h"
#include "espalier/protocol/split/tensors.h"

namespace espalier::split {
namespace {

void archive_task(Archive& archive, TopTask& task) {
  auto kind = static_cast<std::int64_t>(task.kind);
  archive.value("kind", kind);
  task.kind = static_cast<TopTask::Kind>(kind);
  archive.value("version", task.version);
  archive.value("memory_bytes", task.memory_bytes);
  archive.value("optimizer", task.optimizer);
  archive.value("samples", task.samples);
  archive.value("weights", task.weights);
  archive.value("order", task.order);
  archive_list(archive, "mixtures", task.mixtures, [](Archive& a, Mixture& mixture) {
    a.value("partner", mixture.partner);
    a.value("share", mixture.share);
  });
  archive.value("shape", task.shape);
  archive.value("labels", task.labels);
}

void archive_result(Archive& archive, TopResult& result) {
  archive.value("loss_sums", result.loss_sums);
  archive.value("peak_bytes", result.peak_bytes);
  archive.value("optimizer", result.optimizer);
}

class HostStepper final : public Stepper {
 public:
  HostStepper(Host& host, Job job)
      : host_(host), job_(std::move(job)), task_(TopTask::decode(*job_.head)) {}

  bool step() override {
    if (done_ == 1) return false;
    switch (task_.kind) {
      case TopTask::Kind::begin:
        host_.begin(task_, *job_.payload);
        output_ = {to_shared(TopResult().encode()), to_shared({})};
        break;
      case TopTask::Kind::step:
        output_ = host_.step(task_, *job_.payload);
        break;
      case TopTask::Kind::finish:
        output_ = host_.finish();
        break;
    }
    done_ = 1;
    kill_point("split.top");
    return true;
  }
  Output finish() override { return output_; }
  std::int64_t steps() const override { return 1; }
  std::int64_t steps_done() const override { return done_; }

 private:
  Host& host_;
  Job job_;
  TopTask task_;
  Output output_;
  std::int64_t done_ = 0;
};

/// The places of each worker's samples among all.
std::vector<Range> ranges_of(const std::vector<std::int64_t>& samples) {
  std::vector<Range> ranges;
  std::int64_t begin = 0;
  for (const std::int64_t count : samples) {
    ranges.push_back({begin, begin + count});
    begin += count;
  }
  return ranges;
}

at::Tensor rows(const at::Tensor& tensor, const Range& range) {
  return tensor.narrow(0, range.begin, range.size());
}

Outputs rows_of(const Outputs& outputs, const Range& range) {
  Outputs own{rows(outputs.logits, range), {}};
  for (const at::Tensor& exit : outputs.exits) own.exits.push_back(rows(exit, range));
  return own;
}

/// From the gradient of the mean over all samples to that of the mean over each worker's own.
at::Tensor own_means(at::Tensor gradient, const std::vector<Range>& ranges) {
  if (ranges.size() == 1) return gradient;
  const auto samples = static_cast<double>(gradient.size(0));
  for (const Range& range : ranges) {
    rows(gradient, range).mul_(samples / static_cast<double>(range.size()));
  }
  return gradient;
}

/// [samples], or [samples, positions] of texts with a label at each position.
at::Tensor labels_of(const DataShape& shape, const at::Tensor& flat) {
  return shape.targets() == 1 ? flat : flat.view({-1, shape.targets()});
}

}  // namespace

Bytes TopTask::encode() const { return encoded(*this, archive_task); }
TopTask TopTask::decode(const Bytes& bytes) { return decoded<TopTask>(bytes, archive_task); }
Bytes TopResult::encode() const { return encoded(*this, archive_result); }
TopResult TopResult::decode(const Bytes& bytes) {
  return decoded<TopResult>(bytes, archive_result);
}

void Top::begin(const TopTask& task, const Bytes& weights) {
  trainer_ = std::make_unique<Trainer>(experiment_, 0, 0, task.version);
  account_ = MemoryAccount::create(task.memory_bytes);
  const MemoryScope scope(account_);
  const Charge message(*account_, std::ssize(weights));
  trainer_->place(experiment_.model.layout, parts_.top, weights);
  trainer_->attach_optimizer();
  restore_optimizer(experiment_, *trainer_, task.optimizer);
}

Stepper::Output Top::step(const TopTask& task, const Bytes& message) {
  const MemoryScope scope(account_);
  const Charge in(*account_, std::ssize(message));
  const at::Tensor labels = at::tensor(task.labels, at::kLong);
  std::vector<std::int64_t> shape = task.shape;
  shape.insert(shape.begin(),
               std::accumulate(task.samples.begin(), task.samples.end(), std::int64_t{0}));
  const Batch batch{tensor_of(message, shape), labels_of(experiment_.model.shape, labels)};
  TopResult result;
  const std::vector<Range> ranges = ranges_of(task.samples);
  at::Tensor gradient;
  switch (parts_.step) {
    case TopStep::merged:
    case TopStep::mixup:
      gradient = train_merged(batch, ranges, task.mixtures, result.loss_sums);
      break;
    case TopStep::in_turn:
      gradient = train_in_turn(batch, ranges, task.order, result.loss_sums);
      break;
    case TopStep::accumulated:
    case TopStep::copies:
      gradient = train_batch_by_batch(batch, ranges, result.loss_sums);
      break;
  }
  Bytes answer = bytes_of(gradient);
  const Charge out(*account_, std::ssize(answer));
  result.peak_bytes = account_->peak_bytes();
  return {to_shared(result.encode()), to_shared(std::move(answer))};
}

/// With mixtures, workers get the gradient of their real losses alone.
at::Tensor Top::train_merged(const Batch& batch, const std::vector<Range>& ranges,
                             const std::vector<Mixture>& mixtures, std::vector<double>& loss_sums) {
  const Batch all{batch.inputs.detach().requires_grad_(), batch.labels};
  trainer_->parameters().zero_gradients();
  loss_sums = add_gradient(all, ranges);
  if (parts_.step == TopStep::mixup && ranges.size() > 1) {
    add_gradient_of_mixtures(batch, ranges, mixtures);
  }
  trainer_->update();
  return own_means(all.inputs.grad(), ranges);
}

at::Tensor Top::train_in_turn(const Batch& batch, const std::vector<Range>& ranges,
                              const std::vector<std::int64_t>& order,
                              std::vector<double>& loss_sums) {
  at::Tensor gradient = at::empty_like(batch.inputs);
  loss_sums.resize(ranges.size());
  for (const std::int64_t worker : order) {
    const auto i = static_cast<std::size_t>(worker);
    const Range& range = ranges[i];
    const Batch own{rows(batch.inputs, range).detach().requires_grad_(), rows(batch.labels, range)};
    trainer_->parameters().zero_gradients();
    loss_sums[i] = add_gradient(own, {{0, range.size()}})[0];
    trainer_->update();
    rows(gradient, range).copy_(own.inputs.grad());
  }
  return gradient;
}

/// One step along a mean of the workers' gradients: by samples if they are accumulated; equal for
/// copies, because the mean of copies that make one step of SGD each is that step.
at::Tensor Top::train_batch_by_batch(const Batch& batch, const std::vector<Range>& ranges,
                                     std::vector<double>& loss_sums) {
  at::Tensor gradient = at::empty_like(batch.inputs);
  trainer_->parameters().zero_gradients();
  for (const Range& range : ranges) {
    const Batch own{rows(batch.inputs, range).detach().requires_grad_(), rows(batch.labels, range)};
    const at::Tensor mean = loss(own, forward(own.inputs));
    const auto samples = static_cast<double>(range.size());
    const double share = parts_.step == TopStep::copies
                             ? 1 / static_cast<double>(ranges.size())
                             : samples / static_cast<double>(batch.inputs.size(0));
    loss_sums.push_back(mean.item<double>() * samples);
    mean.backward(at::full_like(mean, share));
    rows(gradient, range).copy_(own.inputs.grad()).div_(share);
  }
  trainer_->update();
  return gradient;
}

/// The partner's samples are repeated or cut to the number of the worker's own.
void Top::add_gradient_of_mixtures(const Batch& batch, const std::vector<Range>& ranges,
                                   const std::vector<Mixture>& mixtures) {
  Batch mixed{at::empty_like(batch.inputs), at::empty_like(batch.labels)};
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const Range& own = ranges[i];
    const Range& other = ranges[static_cast<std::size_t>(mixtures[i].partner)];
    const at::Tensor chosen = at::arange(own.size(), at::kLong).remainder_(other.size());
    rows(mixed.labels, own).copy_(rows(batch.labels, other).index_select(0, chosen));
    at::Tensor inputs = rows(mixed.inputs, own);
    inputs.copy_(rows(batch.inputs, other).index_select(0, chosen));
    inputs.mul_(1 - mixtures[i].share).add_(rows(batch.inputs, own), mixtures[i].share);
  }
  const Outputs outputs = forward(mixed.inputs);
  at::Tensor sum;
  const auto add = [&](const Range& range, const at::Tensor& labels, double weight) {
    weight *= static_cast<double>(range.size()) / static_cast<double>(batch.inputs.size(0));
    const at::Tensor part = loss({{}, rows(labels, range)}, rows_of(outputs, range)) * weight;
    sum = sum.defined() ? sum + part : part;
  };
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    add(ranges[i], batch.labels, mixtures[i].share);
    add(ranges[i], mixed.labels, 1 - mixtures[i].share);
  }
  sum.backward();
}

/// Of the mean loss of a batch, whose inputs get their gradient too. Returns the sum of the losses
/// of each range of samples.
std::vector<double> Top::add_gradient(const Batch& batch, const std::vector<Range>& ranges) {
  Outputs outputs = forward(batch.inputs);
  const at::Tensor mean = loss(batch, outputs);
  const auto sum_of = [](const at::Tensor& loss, const Range& range) {
    return loss.item<double>() * static_cast<double>(range.size());
  };
  std::vector<double> sums;
  if (ranges.size() == 1) {
    sums.push_back(sum_of(mean, ranges[0]));
  } else {
    const c10::NoGradGuard no_graph;
    for (const Range& range : ranges) {
      sums.push_back(sum_of(loss({{}, rows(batch.labels, range)}, rows_of(outputs, range)), range));
    }
  }
  outputs = {};
  mean.backward();
  return sums;
}

Outputs Top::forward(const at::Tensor& features) {
  Context context;
  context.mode = Mode::train;
  Outputs outputs;
  context.exits = &outputs.exits;
  outputs.logits = espalier::forward(experiment_.model, trainer_->parameters(), features, context);
  return outputs;
}

at::Tensor Top::loss(const Batch& batch, const Outputs& outputs) {
  LocalTask local;
  local.submodel = parts_.top;
  return objective_.loss({experiment_, trainer_->parameters(), local}, batch, outputs);
}

Stepper::Output Top::finish() {
  const auto dense = experiment_.plans->buffer_layout(parts_.top, Packing::dense);
  const Charge message(*account_, payload_bytes(*dense));
  TopResult result;
  result.peak_bytes = account_->peak_bytes();
  result.optimizer = optimizer_state(experiment_, *trainer_);
  const auto weights = pack_payload(*experiment_.plans, trainer_->parameters(), *dense);
  trainer_.reset();
  return {to_shared(result.encode()), weights};
}

void add_top_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                  std::shared_ptr<const Parts> parts) {
  residents.add(
      kTop, [&experiment, parts](Endpoint) { return std::make_unique<Top>(experiment, *parts); });
  add_host_jobs(kinds, residents);
}

void add_host_jobs(JobKinds& kinds, Residents& residents) {
  kinds.add(kTopJob, [&residents](Job job) {
    Host& host = residents.at<Host>(kTop, job.endpoint);
    return std::make_unique<HostStepper>(host, std::move(job));
  });
}

}  // namespace espalier::split
