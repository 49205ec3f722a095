#include "espalier/train/client.h"

#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <limits>

namespace espalier {
namespace {

void archive_task(Archive& archive, ClientTask& task, std::vector<std::int64_t>& submodel) {
  archive.value("task", task.task);
  archive.value("client", task.client);
  archive.value("nth_task", task.nth_task);
  archive.value("base_version", task.base_version);
  archive.value("finish", task.finish);
  bool unused = false;  // keeps the place of the next flag in files
  bool searches = task.search > 0;
  archive_flags(archive, "flags", {&task.answers_twice, &task.not_finite, &unused, &searches});
  archive.value("submodel", submodel);
  archive.value("state", task.state);
  if (searches) archive.value("search", task.search);
}

void archive_result(Archive& archive, ClientResult& result) {
  bool unused = false;  // keeps the place of the next flags in files
  bool searched = result.search_peak_bytes > 0;
  bool tested = result.local.samples > 0;
  archive.value("task", result.task);
  archive_flags(archive, "flags", {&result.out_of_memory, &unused, &searched, &tested});
  archive.value("samples", result.samples);
  archive.value("steps", result.steps);
  archive.value("train_loss", result.train_loss);
  if (tested) {
    archive.value("local_samples", result.local.samples);
    archive.value("local_loss", result.local.loss);
    archive.value("local_top1", result.local.top1);
    archive.value("local_top5", result.local.top5);
  }
  archive.value("peak_bytes", result.peak_bytes);
  archive.value("cap_bytes", result.cap_bytes);
  archive.value("asked_bytes", result.asked_bytes);
  archive.value("wall_compute_s", result.wall_compute_s);
  archive.value("state", result.state);
  if (searched) {
    archive.value("search_peak_bytes", result.search_peak_bytes);
    archive.value("found", result.found);
  }
}

}  // namespace

Bytes ClientTask::encode() const {
  ByteArchive archive;
  ClientTask copy = *this;
  std::vector<std::int64_t> code = submodel.encode();
  archive_task(archive, copy, code);
  return archive.take();
}

ClientTask ClientTask::decode(const Layout& layout, std::span<const std::byte> bytes) {
  ByteArchive archive(bytes);
  ClientTask task;
  std::vector<std::int64_t> code;
  archive_task(archive, task, code);
  task.submodel = Submodel::decode(layout, code);
  return task;
}

Bytes ClientResult::encode() const {
  ByteArchive archive;
  ClientResult copy = *this;
  archive_result(archive, copy);
  return archive.take();
}

ClientResult ClientResult::decode(std::span<const std::byte> bytes) {
  ByteArchive archive(bytes);
  ClientResult result;
  archive_result(archive, result);
  return result;
}

std::int64_t payload_bytes(const BufferLayout& dense) {
  return dense.kind_range(Kind::trainable).size() * static_cast<std::int64_t>(sizeof(float));
}

std::shared_ptr<Bytes> pack_payload(PlanCache& plans, const Parameters& model,
                                    const BufferLayout& dense) {
  auto bytes = std::make_shared<Bytes>(static_cast<std::size_t>(payload_bytes(dense)));
  plans.plan(model.buffer_layout(), dense, nullptr, kTrained)
      ->copy(model.data(), reinterpret_cast<float*>(bytes->data()));
  return bytes;
}

ClientStepper::ClientStepper(const Experiment& experiment, const ClientRules& rules,
                             const Config& config, ClientTask task, std::int64_t message_bytes,
                             SharedBytes payload)
    : experiment_(experiment),
      task_(std::move(task)),
      payload_(std::move(payload)),
      message_bytes_(message_bytes),
      objective_(rules.objective(config)),
      search_(rules.search ? rules.search(config) : nullptr) {
  result_.task = task_.task;
  result_.cap_bytes = memory_bytes(experiment_.fleet->device(task_.client));
  account_ = MemoryAccount::create(result_.cap_bytes);
  lr_ = learning_rate(experiment_.train, task_.base_version);
  batch_ = experiment_.batch_of(task_.client);
  if (task_.search > 0) {
    search_steps_ = search_->workload(experiment_, task_.client).steps;
    training_steps_ = search_->training(experiment_, task_.client).steps;
  } else {
    training_steps_ = experiment_.workload_of(task_.client).steps;
  }
}

bool ClientStepper::step() {
  try {
    MemoryScope scope(account_);
    if (!begun_) begin();
    if (searching_ && result_.steps == search_steps_) end_search();
    if (!searching_ && test_batch()) return true;
    if (result_.steps == steps()) return false;
    train_batch();
  } catch (const c10::OutOfMemoryError&) {
    result_.out_of_memory = true;
    result_.asked_bytes = account_->refused_bytes();
    release();
    return false;
  }
  return true;
}

void ClientStepper::begin() {
  begun_ = true;
  account_->charge(message_bytes_);
  if (!task_.state.empty()) {
    state_.emplace(task_.state);
    if (search_) search_->archive(*state_);
  }
  if (task_.search > 0) {
    begin_search();
  } else {
    local_test_ = experiment_.partition->test_samples(task_.client);
    begin_training();
  }
}

/// From the payload, as the layout has them.
void ClientStepper::place_weights(const std::shared_ptr<const Layout>& layout) {
  const auto dense = experiment_.plans->buffer_layout(task_.submodel, Packing::dense);
  ESPALIER_CHECK(static_cast<std::int64_t>(payload_->size()) == payload_bytes(*dense),
                 "task {}: payload of {} bytes, expected {}", task_.task, payload_->size(),
                 payload_bytes(*dense));
  const auto* values = reinterpret_cast<const float*>(payload_->data());
  if (layout == experiment_.model.layout) {
    const auto aligned = experiment_.plans->buffer_layout(task_.submodel, Packing::aligned);
    parameters_ = Parameters(aligned);
    experiment_.plans->plan(*dense, *aligned, nullptr, kTrained)->copy(values, parameters_.data());
  } else {  // whose geometries are not the cache's
    const auto aligned = std::make_shared<BufferLayout>(layout, task_.submodel, Packing::aligned);
    parameters_ = Parameters(aligned);
    Plan(*dense, *aligned, nullptr, kTrained).copy(values, parameters_.data());
  }
}

void ClientStepper::begin_search() {
  searching_ = true;
  place_weights(search_->stage(experiment_.model, task_.submodel).layout);
  if (search_steps_ > 0) {
    parameters_.attach_gradients();
    optimizer_.emplace(experiment_.train,
                       parameters_.buffer_layout().kind_range(Kind::trainable).size());
  }
  search_->begin(view());
}

/// What was found becomes the task's submodel, with its values as its payload.
void ClientStepper::end_search() {
  task_.submodel = search_->found(view());
  result_.found = task_.submodel.encode();
  const auto dense = experiment_.plans->buffer_layout(task_.submodel, Packing::dense);
  auto values = std::make_shared<Bytes>(static_cast<std::size_t>(payload_bytes(*dense)));
  Plan(parameters_.buffer_layout(), *dense, nullptr, kTrained | kFrozen)
      .copy(parameters_.data(), reinterpret_cast<float*>(values->data()));
  // In place of the message, which is larger or as large.
  account_->charge(static_cast<std::int64_t>(values->size()) -
                   static_cast<std::int64_t>(payload_->size()));
  payload_ = values;
  result_.search_peak_bytes = account_->peak_bytes();
  searching_ = false;
  parameters_ = Parameters();
  optimizer_.reset();
  begin_training();
}

void ClientStepper::begin_training() {
  place_weights(experiment_.model.layout);
  parameters_.attach_gradients();
  optimizer_.emplace(experiment_.train,
                     parameters_.buffer_layout().kind_range(Kind::trainable).size());
  if (state_) {
    archive_training_state(*state_);
    state_.reset();
    task_.state = Bytes();
  }
  objective_->begin(view());
}

/// Of the objective, then of the optimiser where it is kept.
void ClientStepper::archive_training_state(Archive& archive) {
  objective_->archive(archive);
  const TrainSettings& train = experiment_.train;
  if (train.optimizer_state == OptimizerState::keep && Optimizer::copies(train) > 0) {
    optimizer_->archive(archive, *experiment_.plans, parameters_.buffer_layout());
  }
}

/// A batch of the client's local test, before it trains what it was sent; false once that is done,
/// and where what it trains comes out of a search. It takes no emulated time.
bool ClientStepper::test_batch() {
  const auto left = std::ssize(local_test_) - tested_;
  if (left == 0) return false;
  c10::NoGradGuard no_grad;
  const auto part =
      std::span<const std::int64_t>(local_test_)
          .subspan(static_cast<std::size_t>(tested_),
                   static_cast<std::size_t>(std::min(left, part_size(experiment_.train, batch_))));
  tested_ += std::ssize(part);
  Context context;  // a submodel has no statistics of norms but the batch's
  context.mode = experiment_.model.has_statistics ? Mode::train : Mode::evaluate;
  const EvaluationSums sums =
      score(forward(experiment_.model, parameters_, experiment_.data.train->inputs(part), context),
            experiment_.data.train->labels(part));
  result_.local.samples += sums.samples;
  result_.local.loss += sums.loss;
  result_.local.top1 += sums.top1;
  result_.local.top5 += sums.top5;
  return true;
}

std::span<const std::int64_t> ClientStepper::next_batch() {
  if (position_ == static_cast<std::int64_t>(order_.size())) {
    order_ = epoch_order(experiment_.seed, task_.client, task_.nth_task, epoch_++,
                         experiment_.partition->samples(task_.client));
    position_ = 0;
  }
  const std::int64_t size = std::min(batch_, static_cast<std::int64_t>(order_.size()) - position_);
  std::span<const std::int64_t> batch(order_.data() + position_, static_cast<std::size_t>(size));
  position_ += size;
  return batch;
}

void ClientStepper::train_batch() {
  const auto batch = next_batch();
  const auto size = static_cast<std::int64_t>(batch.size());
  const auto stream = [&](const char* name) {
    return Stream(experiment_.seed, purpose(name), static_cast<std::uint64_t>(task_.client),
                  static_cast<std::uint64_t>(task_.nth_task),
                  static_cast<std::uint64_t>(result_.steps));
  };
  // One stream for all parts of a batch, so that a sample is augmented alike in any division.
  Stream augment = stream("data.augment");
  Stream random = stream("train.dropout");
  Context context;
  context.mode = Mode::train;
  context.random = &random;
  LocalObjective& minimised = objective();
  const LocalView view = this->view();
  minimised.prepare(view, context);

  parameters_.zero_gradients();
  const std::int64_t most = part_size(experiment_.train, batch_);
  for (std::int64_t begin = 0; begin < size; begin += most) {
    const auto count = std::min(most, size - begin);
    const auto part =
        batch.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    const Batch data{experiment_.data.train->inputs(part, &augment),
                     experiment_.data.train->labels(part)};
    Outputs outputs;
    if (!searching_) context.exits = &outputs.exits;
    outputs.logits = forward(experiment_.model, minimised.weights(view), data.inputs, context);
    const at::Tensor loss = minimised.loss(view, data, outputs);
    outputs = {};
    // The gradients of the parts add up to that of the batch's mean.
    loss.backward(count == size
                      ? at::Tensor()
                      : at::full({}, static_cast<double>(count) / static_cast<double>(size)));
    if (!searching_) loss_sum_ += loss.item<double>() * static_cast<double>(count);
  }
  minimised.after_backward(view);
  if (experiment_.train.clip > 0) {
    clip_gradients(parameters_.gradients(), experiment_.train.clip);
  }
  optimizer_->step(parameters_.trainable(), parameters_.gradients(), lr_);
  result_.samples += size;
  if (!searching_) loss_samples_ += size;
  ++result_.steps;
}

void ClientStepper::release() {
  parameters_ = Parameters();
  optimizer_.reset();
  payload_.reset();
  objective_.reset();
  search_.reset();
}

std::pair<ClientResult, SharedBytes> ClientStepper::finish() {
  SharedBytes trained = std::make_shared<const Bytes>();
  if (!result_.out_of_memory) {
    auto dense = experiment_.plans->buffer_layout(task_.submodel, Packing::dense);
    const auto values = pack_payload(*experiment_.plans, parameters_, *dense);
    if (task_.not_finite) {
      constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
      std::memcpy(values->data(), &kNone, sizeof(kNone));
    }
    trained = values;
    objective_->end(view());
    ByteArchive state;
    if (search_) search_->archive(state);
    archive_training_state(state);
    result_.state = state.take();
    result_.train_loss = loss_samples_ == 0 ? 0 : loss_sum_ / static_cast<double>(loss_samples_);
  }
  result_.peak_bytes = account_->peak_bytes();
  release();
  return {result_, trained};
}

}  // namespace espalier
