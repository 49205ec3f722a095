#include "espalier/protocol/rounds/client_stepper.h"

#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <limits>
#include <tuple>

#include "espalier/protocol/rounds/payloads.h"

namespace espalier::rounds {

ClientStepper::ClientStepper(const RuleContext& context, const ClientRules& rules, ClientTask task,
                             std::int64_t message_bytes, SharedBytes payload)
    : experiment_(context.experiment),
      task_(std::move(task)),
      message_bytes_(message_bytes),
      objective_(rules.objective(context)),
      search_(rules.search ? rules.search(context) : nullptr),
      trainer_(experiment_, task_.client, task_.nth_task, task_.base_version),
      personal_(experiment_) {
  const auto shared = experiment_.plans->buffer_layout(task_.submodel, Packing::shared);
  std::tie(payload_, task_.companion) = parted(std::move(payload), *shared);
  result_.task = task_.task;
  result_.cap_bytes = memory_bytes(experiment_.fleet->device(task_.client));
  account_ = MemoryAccount::create(result_.cap_bytes);
  if (task_.search > 0) {
    search_steps_ = search_->workload(experiment_, task_.client).steps;
    steps_ = search_steps_ + search_->training(experiment_, task_.client).steps;
  } else {
    steps_ = experiment_.workload_of(task_.client).steps;
  }
}

bool ClientStepper::step() {
  std::int64_t begun = trainer_.steps();
  try {
    MemoryScope scope(account_);
    if (stage_ == Stage::sent) begin();
    if (stage_ == Stage::search && trainer_.steps() == search_steps_) end_search();
    if (stage_ == Stage::training && test_batch()) return true;
    if (trainer_.steps() == steps_) return false;
    begun = trainer_.steps() + 1;
    trainer_.train_batch(stage_ == Stage::search ? *search_ : *objective_, task_);
  } catch (const c10::OutOfMemoryError&) {
    result_.out_of_memory = true;
    // A step may be counted before its optimiser has ended, so this is not a difference.
    result_.failed_in_step = begun > trainer_.steps();
    result_.asked_bytes = account_->refused_bytes();
    release();
    return false;
  }
  return true;
}

void ClientStepper::begin() {
  account_->charge(message_bytes_);
  if (!task_.state.empty()) {
    state_.emplace(task_.state);
    personal_.archive(*state_);
    if (state_->at_end()) {
      state_.reset();  // before a first task there is nothing else
    } else if (search_) {
      search_->archive(*state_);
    }
  }
  if (task_.search > 0) {
    begin_search();
  } else {
    local_test_.samples = experiment_.partition->test_samples(task_.client);
    begin_training();
  }
}

void ClientStepper::begin_search() {
  stage_ = Stage::search;
  place(search_->stage(experiment_.model, task_.submodel).layout);
  if (search_steps_ > 0) trainer_.attach_optimizer();
  search_->begin(view());
}

/// The found submodel becomes the task's submodel, and its values the payload.
void ClientStepper::end_search() {
  const auto sent = experiment_.plans->buffer_layout(task_.submodel, Packing::shared);
  task_.submodel = search_->found(view());
  result_.found = task_.submodel.encode();
  const auto shared = experiment_.plans->buffer_layout(task_.submodel, Packing::shared);
  auto values = std::make_shared<Bytes>(static_cast<std::size_t>(payload_bytes(*shared)));
  const Parameters& searched = trainer_.parameters();
  Plan(searched.buffer_layout(), *shared, nullptr, kTrained | kFrozen)
      .copy(searched.data(), floats_of(*values).data());
  // They replace the payload of the message, which is at least as large.
  account_->charge(std::ssize(*values) - std::ssize(*payload_));
  payload_ = values;
  if (task_.companion) {
    const std::int64_t before = std::ssize(*task_.companion);
    task_.companion = narrowed(*experiment_.plans, *task_.companion, *sent, *shared);
    account_->charge(std::ssize(*task_.companion) - before);
  }
  result_.search_peak_bytes = account_->peak_bytes();
  trainer_.release();
  begin_training();
}

void ClientStepper::begin_training() {
  stage_ = Stage::training;
  place(experiment_.model.layout);
  trainer_.attach_optimizer();
  if (state_) {
    archive_training_state(*state_);
    state_.reset();
    task_.state = Bytes();
  }
  objective_->begin(view());
}

/// The weights of the message, and the client's own.
void ClientStepper::place(const std::shared_ptr<const Layout>& layout) {
  trainer_.place(layout, task_.submodel, *payload_);
  personal_.place(trainer_.parameters());
}

/// The state of the objective, then of the optimiser if that is kept.
void ClientStepper::archive_training_state(Archive& archive) {
  objective_->archive(archive);
  const TrainSettings& train = experiment_.train;
  if (train.optimizer_state == OptimizerState::keep && Optimizer::copies(train) > 0) {
    trainer_.optimizer().archive(archive, *experiment_.plans,
                                 trainer_.parameters().buffer_layout());
  }
}

/// Tests a batch of the client's local test samples with the received weights, before the training;
/// false if none is left. Tasks with a search have no local test. It takes no emulated time.
bool ClientStepper::test_batch() {
  const auto left = std::ssize(local_test_.samples) - local_test_.tested;
  if (left == 0) return false;
  c10::NoGradGuard no_grad;
  const std::int64_t most = part_size(experiment_.train, trainer_.batch());
  const auto part = std::span<const std::int64_t>(local_test_.samples)
                        .subspan(static_cast<std::size_t>(local_test_.tested),
                                 static_cast<std::size_t>(std::min(left, most)));
  local_test_.tested += std::ssize(part);
  Context context;  // a submodel has no norm statistics but the batch's
  context.mode = experiment_.model.has_statistics ? Mode::train : Mode::evaluate;
  const Batch batch = experiment_.data.train->batch(part);
  result_.local +=
      score(forward(experiment_.model, trainer_.parameters(), batch.inputs, context), batch.labels);
  return true;
}

void ClientStepper::release() {
  trainer_.release();
  payload_.reset();
  task_.companion.reset();
  task_.peers.clear();
  objective_.reset();
  search_.reset();
}

std::pair<ClientResult, SharedBytes> ClientStepper::finish() {
  SharedBytes trained = std::make_shared<const Bytes>();
  result_.samples = trainer_.samples();
  result_.steps = trainer_.steps();
  if (!result_.out_of_memory) {
    objective_->end(view());
    const auto shared = experiment_.plans->buffer_layout(task_.submodel, Packing::shared);
    const auto values = pack_payload(*experiment_.plans, trainer_.parameters(), *shared);
    if (task_.not_finite && !values->empty()) {
      constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
      std::memcpy(values->data(), &kNone, sizeof(kNone));
    }
    trained = values;
    ByteArchive state;
    personal_.take(trainer_.parameters());
    personal_.archive(state);
    if (search_) search_->archive(state);
    archive_training_state(state);
    result_.state = state.take();
    result_.train_loss = trainer_.mean_loss();
  }
  result_.peak_bytes = account_->peak_bytes();
  release();
  return {result_, trained};
}

}  // namespace espalier::rounds
