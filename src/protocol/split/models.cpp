#include "espalier/protocol/split/models.h"

#include "espalier/base/error.h"
#include "espalier/base/kill_point.h"
#include "espalier/device/charge.h"

namespace espalier::split {
namespace {

/// The steps are batches.
class ModelStepper final : public Stepper {
 public:
  ModelStepper(ModelWorker& worker, std::int64_t steps, Job job)
      : worker_(worker),
        steps_(steps),
        job_(std::move(job)),
        task_(BottomTask::decode(*job_.head)) {}

  bool step() override {
    if (done_ == steps_) return false;
    if (done_ == 0) place();
    worker_.train();
    ++done_;
    kill_point("split.bottom");
    return true;
  }
  Output finish() override { return worker_.answer(task_.goes_on == 0); }
  std::int64_t steps() const override { return steps_; }
  std::int64_t steps_done() const override { return done_; }

 private:
  void place() {
    if (task_.begins != 0) {
      worker_.begin(task_, *job_.payload);
    } else {
      worker_.replace(*job_.payload);
    }
    job_.payload.reset();
  }

  ModelWorker& worker_;
  std::int64_t steps_;
  Job job_;
  BottomTask task_;
  std::int64_t done_ = 0;
};

}  // namespace

void ModelWorker::replace(const Bytes& weights) {
  const Charge message(*account_, std::ssize(weights));
  const auto dense = experiment_.plans->buffer_layout(parts_.bottom, Packing::dense);
  ESPALIER_CHECK(std::ssize(weights) == payload_bytes(*dense), "a mean of {} bytes, expected {}",
                 weights.size(), payload_bytes(*dense));
  Parameters& own = trainer_->parameters();
  experiment_.plans->plan(*dense, own.buffer_layout(), nullptr, kTrained)
      ->copy(floats_of(weights).data(), own.data());
}

void ModelWorker::train() {
  const MemoryScope scope(account_);
  LocalTask task;
  task.client = client_;
  task.submodel = parts_.bottom;
  loss_sum_ += trainer_->train_batch(objective_, task);
}

Stepper::Output ModelWorker::answer(bool is_last) {
  BottomResult result;
  result.loss_sum = std::exchange(loss_sum_, 0);
  return weights(std::move(result), is_last);
}

/// The host passes the weights on to its workers.
void ModelHost::begin(const TopTask& task, const Bytes& weights) {
  account_ = MemoryAccount::create(task.memory_bytes);
  const Charge message(*account_, std::ssize(weights));
}

Stepper::Output ModelHost::step(const TopTask& task, const Bytes& models) {
  mean_.reset();
  const Charge messages(*account_, std::ssize(models));
  const Charge mean(*account_, std::ssize(models) / std::ssize(task.weights));
  mean_ = to_shared(mean_of(floats_of(models), task.weights));
  TopResult result;
  result.peak_bytes = account_->peak_bytes();
  return {to_shared(result.encode()), mean_};
}

Stepper::Output ModelHost::finish() {
  TopResult result;
  result.peak_bytes = account_->peak_bytes();
  return {to_shared(result.encode()), std::exchange(mean_, nullptr)};
}

Bytes mean_of(std::span<const float> models, std::span<const double> weights) {
  const std::size_t size = models.size() / weights.size();
  Bytes bytes(size * sizeof(float));
  const std::span<float> mean = floats_of(bytes);
  for (std::size_t i = 0; i < size; ++i) {
    double sum = 0, all = 0;
    for (std::size_t k = 0; k < weights.size(); ++k) {
      // Divided by the first weight, so that equal ones are exactly 1.
      const double weight = weights[k] / weights[0];
      sum += weight * static_cast<double>(models[k * size + i]);
      all += weight;
    }
    mean[i] = static_cast<float>(sum / all);
  }
  return bytes;
}

void add_model_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                    std::shared_ptr<const Parts> parts) {
  residents.add(kBottom, [&experiment, parts](Endpoint client) {
    return std::make_unique<ModelWorker>(experiment, *parts, client);
  });
  kinds.add(kBottomJob, [&residents, steps = parts->local_steps](Job job) {
    ModelWorker& worker = residents.at<ModelWorker>(kBottom, job.endpoint);
    return std::make_unique<ModelStepper>(worker, steps, std::move(job));
  });
  residents.add(kTop, [](Endpoint) { return std::make_unique<ModelHost>(); });
  add_host_jobs(kinds, residents);
}

}  // namespace espalier::split
