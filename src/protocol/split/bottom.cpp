#include "espalier/protocol/split/bottom.h"

#include "espalier/base/coded.h"
#include "espalier/base/kill_point.h"
#include "espalier/device/charge.h"
#include "espalier/protocol/split/tensors.h"

namespace espalier::split {
namespace {

void archive_task(Archive& archive, BottomTask& task) {
  archive.value("begins", task.begins);
  archive.value("goes_on", task.goes_on);
  archive.value("version", task.version);
  archive.value("nth_task", task.nth_task);
  archive.value("batch", task.batch);
  archive.value("optimizer", task.optimizer);
}

void archive_result(Archive& archive, BottomResult& result) {
  archive.value("shape", result.shape);
  archive.value("labels", result.labels);
  archive.value("loss_sum", result.loss_sum);
  archive.value("peak_bytes", result.peak_bytes);
  archive.value("optimizer", result.optimizer);
}

/// The steps are the backward pass, if there is one, and the forward pass, if there is one.
class BottomStepper final : public Stepper {
 public:
  BottomStepper(Bottom& bottom, Job job)
      : bottom_(bottom), job_(std::move(job)), task_(BottomTask::decode(*job_.head)) {}

  bool step() override {
    if (done_ == steps()) return false;
    if (done_ == 0 && task_.begins == 0) {
      bottom_.step(*job_.payload);
    } else {
      if (task_.begins != 0) bottom_.begin(task_, *job_.payload);
      output_ = bottom_.forward();
    }
    ++done_;
    kill_point("split.bottom");
    return true;
  }
  Output finish() override { return task_.goes_on != 0 ? output_ : bottom_.finish(); }
  std::int64_t steps() const override { return (1 - task_.begins) + task_.goes_on; }
  std::int64_t steps_done() const override { return done_; }

 private:
  Bottom& bottom_;
  Job job_;
  BottomTask task_;
  Output output_;
  std::int64_t done_ = 0;
};

}  // namespace

Bytes BottomTask::encode() const { return encoded(*this, archive_task); }
BottomTask BottomTask::decode(const Bytes& bytes) {
  return decoded<BottomTask>(bytes, archive_task);
}
Bytes BottomResult::encode() const { return encoded(*this, archive_result); }
BottomResult BottomResult::decode(const Bytes& bytes) {
  return decoded<BottomResult>(bytes, archive_result);
}

void WorkerPart::begin(const BottomTask& task, const Bytes& weights) {
  trainer_ = std::make_unique<Trainer>(experiment_, client_, task.nth_task, task.version);
  trainer_->set_batch(task.batch);
  trainer_->drop_last(parts_.drops_last);
  account_ = MemoryAccount::create(memory_bytes(experiment_.fleet->device(client_)));
  const MemoryScope scope(account_);
  const Charge message(*account_, std::ssize(weights));
  trainer_->place(experiment_.model.layout, parts_.bottom, weights);
  trainer_->attach_optimizer();
  restore_optimizer(experiment_, *trainer_, task.optimizer);
}

Stepper::Output WorkerPart::weights(BottomResult result, bool is_last) {
  const auto dense = experiment_.plans->buffer_layout(parts_.bottom, Packing::dense);
  const Charge message(*account_, payload_bytes(*dense));
  result.peak_bytes = account_->peak_bytes();
  if (is_last) result.optimizer = optimizer_state(experiment_, *trainer_);
  const auto values = pack_payload(*experiment_.plans, trainer_->parameters(), *dense);
  if (is_last) trainer_.reset();
  return {to_shared(result.encode()), values};
}

Stepper::Output Bottom::forward() {
  const MemoryScope scope(account_);
  const Batch batch = trainer_->forward_batch();
  features_ = batch.inputs;
  BottomResult result;
  result.shape = features_.sizes().vec();
  const at::Tensor labels = batch.labels.flatten();
  result.labels.assign(labels.const_data_ptr<std::int64_t>(),
                       labels.const_data_ptr<std::int64_t>() + labels.numel());
  Bytes message = bytes_of(features_.detach().contiguous());
  const Charge charge(*account_, std::ssize(message));
  result.peak_bytes = account_->peak_bytes();
  return {to_shared(result.encode()), to_shared(std::move(message))};
}

void Bottom::step(const Bytes& gradient) {
  const MemoryScope scope(account_);
  const Charge message(*account_, std::ssize(gradient));
  const at::Tensor features = std::exchange(features_, at::Tensor());
  features.backward(tensor_of(gradient, features.sizes()));
  trainer_->update();
}

void add_bottom_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                     std::shared_ptr<const Parts> parts) {
  residents.add(kBottom, [&experiment, parts](Endpoint client) {
    return std::make_unique<Bottom>(experiment, *parts, client);
  });
  kinds.add(kBottomJob, [&residents](Job job) {
    Bottom& bottom = residents.at<Bottom>(kBottom, job.endpoint);
    return std::make_unique<BottomStepper>(bottom, std::move(job));
  });
}

bool keeps_optimizer(const TrainSettings& train) {
  return train.optimizer_state == OptimizerState::keep && Optimizer::copies(train) > 0;
}

Bytes optimizer_state(const Experiment& experiment, Trainer& trainer) {
  if (!keeps_optimizer(experiment.train)) return {};
  ByteArchive out;
  trainer.optimizer().archive(out, *experiment.plans, trainer.parameters().buffer_layout());
  return out.take();
}

void restore_optimizer(const Experiment& experiment, Trainer& trainer, const Bytes& state) {
  if (state.empty()) return;
  ByteArchive in(state);
  trainer.optimizer().archive(in, *experiment.plans, trainer.parameters().buffer_layout());
}

}  // namespace espalier::split
