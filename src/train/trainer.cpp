#include "espalier/train/trainer.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/base/large_pages.h"

namespace espalier {
namespace {

const Purpose kAugment = register_purpose("data.augment");
const Purpose kDropout = register_purpose("train.dropout");

}  // namespace

std::int64_t payload_bytes(const BufferLayout& dense) {
  return dense.kind_range(Kind::trainable).size() * static_cast<std::int64_t>(sizeof(float));
}

std::shared_ptr<Bytes> pack_payload(PlanCache& plans, const Parameters& model,
                                    const BufferLayout& dense) {
  auto bytes = std::make_shared<Bytes>(static_cast<std::size_t>(payload_bytes(dense)));
  prefer_large_pages(bytes->data(), bytes->size());
  plans.plan(model.buffer_layout(), dense, nullptr, kTrained)
      ->copy(model.data(), floats_of(*bytes).data());
  return bytes;
}

Trainer::Trainer(const Experiment& experiment, std::int64_t client, std::int64_t nth_task,
                 std::int64_t base_version)
    : experiment_(experiment),
      client_(client),
      nth_task_(nth_task),
      batch_(experiment.batch_of(client)),
      lr_(learning_rate(experiment.train, base_version)) {}

void Trainer::place(const std::shared_ptr<const Layout>& layout, const Submodel& submodel,
                    const Bytes& payload) {
  const auto dense = experiment_.plans->buffer_layout(submodel, Packing::shared);
  ESPALIER_CHECK(std::ssize(payload) == payload_bytes(*dense),
                 "client {}: payload of {} bytes, expected {}", client_, payload.size(),
                 payload_bytes(*dense));
  const float* values = floats_of(payload).data();
  optimizer_.reset();
  if (layout == experiment_.model.layout) {
    const auto aligned = experiment_.plans->buffer_layout(submodel, Packing::aligned);
    parameters_ = experiment_.allocate(aligned);
    experiment_.plans->plan(*dense, *aligned, nullptr, kTrained)->copy(values, parameters_.data());
  } else {  // the plan cache holds only plans of the model's own layout
    const auto aligned = std::make_shared<BufferLayout>(layout, submodel, Packing::aligned);
    parameters_ = experiment_.allocate(aligned);
    Plan(*dense, *aligned, nullptr, kTrained).copy(values, parameters_.data());
  }
}

void Trainer::attach_optimizer() {
  parameters_.attach_gradients();
  optimizer_.emplace(experiment_.train,
                     parameters_.buffer_layout().kind_range(Kind::trainable).size());
  penalty_.reset();
  if (has_penalty(experiment_.train) &&
      parameters_.buffer_layout().layout_ptr() == experiment_.model.layout) {
    penalty_.emplace(experiment_.train, experiment_.model, parameters_.buffer_layout());
  }
  loss_sum_ = 0;
  loss_samples_ = 0;
}

std::span<const std::int64_t> Trainer::next_batch() {
  const std::int64_t left = std::ssize(order_) - position_;
  if (left == 0 || (drops_last_ && position_ > 0 && left < batch_)) {
    order_ = epoch_order(experiment_.seed, client_, nth_task_, epoch_++,
                         experiment_.partition->samples(client_));
    position_ = 0;
  }
  const std::int64_t size = std::min(batch_, std::ssize(order_) - position_);
  std::span<const std::int64_t> batch(order_.data() + position_, static_cast<std::size_t>(size));
  position_ += size;
  return batch;
}

/// A stream of the present batch.
Stream Trainer::batch_stream(Purpose purpose) const {
  return {experiment_.seed, purpose, client_, nth_task_, steps_};
}

double Trainer::train_batch(LocalObjective& objective, const LocalTask& task) {
  const double sum = compute_gradient(objective, task);
  update();
  return sum;
}

double Trainer::compute_gradient(LocalObjective& objective, const LocalTask& task) {
  const auto batch = next_batch();
  const std::int64_t size = std::ssize(batch);
  // One stream for all parts of a batch, so that the division into parts does not change the
  // augmentation.
  Stream augment = batch_stream(kAugment);
  Stream random = batch_stream(kDropout);
  Context context;
  context.mode = Mode::train;
  context.random = &random;
  const LocalView view{experiment_, parameters_, task};
  objective.prepare(view, context);

  double sum = 0;
  parameters_.zero_gradients();
  const std::int64_t most = part_size(experiment_.train, batch_);
  for (std::int64_t begin = 0; begin < size; begin += most) {
    const auto count = std::min(most, size - begin);
    const auto part =
        batch.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    const Batch data = experiment_.data.train->batch(part, &augment);
    Outputs outputs;
    if (objective.uses_exits()) context.exits = &outputs.exits;
    outputs.logits = forward(experiment_.model, objective.weights(view), data.inputs, context);
    const at::Tensor loss = objective.loss(view, data, outputs);
    outputs = {};
    if (loss.requires_grad()) {  // else the submodel keeps nothing that is trained
      loss.backward(count == size
                        ? at::Tensor()
                        : at::full({}, static_cast<double>(count) / static_cast<double>(size)));
    }
    const double part_sum = loss.item<double>() * static_cast<double>(count);
    loss_sum_ += part_sum;
    sum += part_sum;
  }
  objective.after_backward(view);
  if (penalty_) penalty_->add_gradient(parameters_.trainable(), parameters_.gradients());
  ++steps_;
  samples_ += size;
  loss_samples_ += size;
  return sum;
}

Batch Trainer::forward_batch() {
  const auto batch = next_batch();
  Stream augment = batch_stream(kAugment);
  Stream random = batch_stream(kDropout);
  Context context;
  context.mode = Mode::train;
  context.random = &random;
  parameters_.zero_gradients();
  Batch data = experiment_.data.train->batch(batch, &augment);
  data.inputs = forward(experiment_.model, parameters_, data.inputs, context);
  ++steps_;
  samples_ += std::ssize(batch);
  return data;
}

void Trainer::update() {
  if (experiment_.train.clip > 0) {
    clip_gradients(parameters_.gradients(), experiment_.train.clip);
  }
  optimizer_->step(parameters_.trainable(), parameters_.gradients(), lr_);
}

void Trainer::begin_task(std::int64_t nth_task) {
  nth_task_ = nth_task;
  order_.clear();
  epoch_ = position_ = steps_ = 0;
}

void Trainer::archive(Archive& archive) {
  archive.value("nth_task", nth_task_);
  archive.value("epoch", epoch_);
  archive.value("position", position_);
  archive.value("steps", steps_);
  archive.value("samples", samples_);
  if (!archive.loading()) return;
  order_.clear();
  if (epoch_ > 0) {
    order_ = epoch_order(experiment_.seed, client_, nth_task_, epoch_ - 1,
                         experiment_.partition->samples(client_));
  }
}

void Trainer::release() {
  parameters_ = Parameters();
  optimizer_.reset();
}

}  // namespace espalier
