#include "espalier/engine/evaluation.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "espalier/base/coded.h"
#include "espalier/base/kill_point.h"
#include "espalier/base/large_pages.h"

namespace espalier {

namespace {

constexpr JobKind kCalibrate = job_kind("evaluation.calibrate");
constexpr JobKind kEvaluate = job_kind("evaluation.evaluate");

/// The kinds of entries that evaluations send; each rank has the frozen ones.
constexpr unsigned kEvaluated = kTrained | kStatistic;

/// Batches [first, last).
struct Batches {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

void archive_batches(Archive& archive, Batches& batches) {
  archive.value("first", batches.first);
  archive.value("last", batches.last);
}

/// Calls `run` for one batch after the other; the answer is the concatenation of the results.
class ShardStepper final : public Stepper {
 public:
  using Run = std::function<std::vector<double>(const Parameters&, std::int64_t batch)>;
  ShardStepper(const Experiment& experiment, const Job& job, Run run)
      : head_(job.head),
        batches_(decoded<Batches>(*job.head, archive_batches)),
        run_(std::move(run)) {
    const auto full = Submodel::full(*experiment.model.layout);
    const auto dense = experiment.plans->buffer_layout(full, Packing::dense);
    model_ = experiment.allocate(experiment.plans->buffer_layout(full, Packing::aligned));
    experiment.plans->plan(*dense, model_.buffer_layout(), nullptr, kEvaluated)
        ->copy(floats_of(*job.payload).data(), model_.data());
    next_ = batches_.first;
  }
  bool step() override {
    kill_point("evaluation.batch");
    const std::vector<double> result = run_(model_, next_);
    results_.insert(results_.end(), result.begin(), result.end());
    return ++next_ < batches_.last;
  }
  Output finish() override {
    Bytes bytes(results_.size() * sizeof(double));
    std::memcpy(bytes.data(), results_.data(), bytes.size());
    return {head_, to_shared(std::move(bytes))};
  }
  std::int64_t steps() const override { return batches_.last - batches_.first; }
  std::int64_t steps_done() const override { return next_ - batches_.first; }

 private:
  SharedBytes head_;
  Batches batches_;
  Run run_;
  Parameters model_;
  std::int64_t next_ = 0;
  std::vector<double> results_;
};

}  // namespace

void add_evaluation_jobs(JobKinds& kinds, const Experiment& experiment,
                         const EvaluationPlan& plan) {
  const auto calibrate = [&experiment, plan](const Parameters& model, std::int64_t batch) {
    return calibrate_batch(experiment, plan, model, batch);
  };
  const auto evaluate = [&experiment, plan](const Parameters& model, std::int64_t batch) {
    std::vector<double> values;  // four for each set
    for (const EvaluationSums& sums : evaluate_batch(experiment, plan, model, batch)) {
      values.insert(values.end(), {static_cast<double>(sums.samples), sums.loss,
                                   static_cast<double>(sums.top1), static_cast<double>(sums.top5)});
    }
    return values;
  };
  kinds.add(kCalibrate, [&experiment, calibrate](const Job& job) {
    return std::make_unique<ShardStepper>(experiment, job, calibrate);
  });
  kinds.add(kEvaluate, [&experiment, evaluate](const Job& job) {
    return std::make_unique<ShardStepper>(experiment, job, evaluate);
  });
}

Evaluator::Evaluator(const Experiment& experiment, const EvaluationPlan& plan, Pool& pool)
    : experiment_(experiment), plan_(plan), pool_(pool) {
  pool_.on_answer(kCalibrate, [this](const Answer& answer) { take_moments(answer); });
  pool_.on_answer(kEvaluate, [this](const Answer& answer) { take_sums(answer); });
}

void Evaluator::start(std::int64_t version, Nanoseconds time, const Parameters& model) {
  Running& running = hold(version, model);
  running.time = time;
  running.is_evaluated = true;
  begin(version, running);
}

/// Sends the first jobs of an evaluation.
void Evaluator::begin(std::int64_t version, Running& running) {
  if (running.is_calibrated) {
    send(version, running, kEvaluate);
  } else {
    calibrate(version, running, false);
  }
}

void Evaluator::resume() {
  for (auto& [version, running] : running_) begin(version, running);
}

void Evaluator::calibrate(std::int64_t version, const Parameters& model) {
  if (calibrated(version) != nullptr || !lacks_statistics(model)) return;
  calibrate(version, hold(version, model), true);
}

/// The values as a message has them.
SharedBytes Evaluator::values_of(const Parameters& model) const {
  const auto dense = experiment_.plans->buffer_layout(model.submodel(), Packing::dense);
  Bytes values(static_cast<std::size_t>(dense->size_without_frozen()) * sizeof(float));
  prefer_large_pages(values.data(), values.size());
  experiment_.plans->plan(model.buffer_layout(), *dense, nullptr, kEvaluated)
      ->copy(model.data(), floats_of(values).data());
  return to_shared(std::move(values));
}

SharedBytes Evaluator::values_of(const Running& running) const {
  return running.values ? running.values : values_of(running.model);
}

/// The model of an item in the buffer layout of `like`; not a copy if the item has it so.
Parameters Evaluator::model_of(const Running& running, const Parameters& like) const {
  if (!running.values) return running.model;
  const auto dense = experiment_.plans->buffer_layout(like.submodel(), Packing::dense);
  Parameters model = like.copy();
  experiment_.plans->plan(*dense, model.buffer_layout(), nullptr, kEvaluated)
      ->copy(floats_of(*running.values).data(), model.data());
  return model;
}

/// The item of the version; a new one has the model's values and no results.
Evaluator::Running& Evaluator::hold(std::int64_t version, const Parameters& model) {
  const auto [place, added] = running_.try_emplace(version);
  Running& running = place->second;
  if (!added) return running;
  if (experiment_.model.has_statistics) {
    running.model = model.copy();
  } else {
    running.values = values_of(model);
  }
  running.is_calibrated = !lacks_statistics(model);
  running.moments.resize(static_cast<std::size_t>(plan_.calibration_batches()));
  running.sums.resize(static_cast<std::size_t>(plan_.test_batches()));
  return running;
}

/// Sends a calibration, unless it was sent before. One that was sent for idle ranks is sent again
/// when it becomes urgent; the second set of answers has no effect.
void Evaluator::calibrate(std::int64_t version, Running& running, bool urgent) {
  if (running.is_urgent || (running.is_sent && !urgent)) return;
  running.is_sent = true;
  running.is_urgent = urgent;
  send(version, running, kCalibrate);
}

const Parameters* Evaluator::calibrated(std::int64_t version) const {
  if (!experiment_.model.has_statistics) return nullptr;
  if (version == last_version_) return &last_model_;
  const auto item = running_.find(version);
  return item != running_.end() && item->second.is_calibrated ? &item->second.model : nullptr;
}

void Evaluator::archive(Archive& archive, const Parameters& model) {
  std::vector<std::int64_t> versions, times;
  for (const auto& [version, running] : running_) {
    if (!running.is_evaluated) continue;
    versions.push_back(version);
    times.push_back(running.time);
  }
  archive.value("versions", versions);
  archive.value("times", times);
  for (std::size_t i = 0; i < versions.size(); ++i) {
    Parameters values =
        archive.loading() ? model.copy() : model_of(running_.at(versions[i]), model);
    const std::int64_t size = values.buffer_layout().size_without_frozen();
    archive.value(formatted("model_{}", versions[i]).c_str(),
                  std::span<float>(values.data(), static_cast<std::size_t>(size)));
    if (!archive.loading()) continue;
    Running& running = hold(versions[i], values);
    running.time = times[i];
    running.is_evaluated = true;
  }
}

/// Cuts the batches into one shard for each rank.
void Evaluator::send(std::int64_t version, const Running& running, JobKind kind) {
  Job job;
  job.kind = kind;
  job.number = job.version = version;
  job.urgency = kind == kCalibrate && running.is_urgent ? Urgency::first : Urgency::idle;
  job.payload = values_of(running);
  const std::int64_t batches =
      kind == kCalibrate ? plan_.calibration_batches() : plan_.test_batches();
  const std::int64_t ranks = pool_.places();
  for (std::int64_t i = 0; i < ranks; ++i) {
    const Batches shard{batches * i / ranks, batches * (i + 1) / ranks};
    if (shard.first == shard.last) continue;
    job.head = to_shared(encoded(shard, archive_batches));
    pool_.submit_to(i, job);
  }
}

/// Stores the moments of a shard, unless the version is calibrated already.
void Evaluator::take_moments(const Answer& answer) {
  const auto item = running_.find(answer.number);
  if (item == running_.end() || item->second.is_calibrated) return;
  Running& running = item->second;
  const auto shard = decoded<Batches>(*answer.head, archive_batches);
  const std::size_t each =
      answer.payload->size() / sizeof(double) / static_cast<std::size_t>(shard.last - shard.first);
  const std::byte* next = answer.payload->data();
  for (std::int64_t b = shard.first; b < shard.last; ++b, next += each * sizeof(double)) {
    auto& moments = running.moments[static_cast<std::size_t>(b)];
    moments.resize(each);
    std::memcpy(moments.data(), next, each * sizeof(double));
  }
  if (std::ranges::any_of(running.moments, [](const auto& m) { return m.empty(); })) return;
  set_statistics(running.model, running.moments);
  running.is_calibrated = true;
  if (running.is_evaluated) send(answer.number, running, kEvaluate);
}

void Evaluator::take_sums(const Answer& answer) {
  Running& running = running_.at(answer.number);
  const auto shard = decoded<Batches>(*answer.head, archive_batches);
  const std::int64_t batches = shard.last - shard.first;
  const std::size_t sets = evaluated_sets(experiment_.model).size();
  double four[4];
  ESPALIER_CHECK(answer.payload->size() == static_cast<std::size_t>(batches) * sets * sizeof(four),
                 "evaluation shard of {} bytes", answer.payload->size());
  const std::byte* next = answer.payload->data();
  for (std::int64_t b = 0; b < batches; ++b) {
    auto& batch = running.sums[static_cast<std::size_t>(shard.first + b)];
    batch.clear();
    for (std::size_t set = 0; set < sets; ++set, next += sizeof(four)) {
      std::memcpy(four, next, sizeof(four));
      batch.push_back({static_cast<std::int64_t>(four[0]), four[1],
                       static_cast<std::int64_t>(four[2]), static_cast<std::int64_t>(four[3])});
    }
  }
  running.evaluated += batches;
}

Evaluation Evaluator::combined(const Running& running, std::size_t set) const {
  EvaluationSums total;
  for (const auto& batch : running.sums) {
    total += batch[set];
  }
  const auto samples = static_cast<double>(total.samples);
  Evaluation evaluation;
  evaluation.time = running.time;
  evaluation.loss = total.loss / samples;
  if (experiment_.model.shape.predicts_tokens()) {
    evaluation.perplexity = std::exp(evaluation.loss);
  } else {
    evaluation.top1 = static_cast<double>(total.top1) / samples;
    evaluation.top5 = static_cast<double>(total.top5) / samples;
  }
  return evaluation;
}

std::vector<Evaluation> Evaluator::next() {
  std::vector<Evaluation> evaluations;
  while (!running_.empty() && !running_.begin()->second.is_evaluated &&
         running_.begin()->second.is_calibrated) {
    retire(running_.begin());
  }
  if (running_.empty()) return evaluations;
  const auto first = running_.begin();
  if (!first->second.is_evaluated || first->second.evaluated < plan_.test_batches()) {
    return evaluations;
  }
  for (const std::string& set : evaluated_sets(experiment_.model)) {
    evaluations.push_back(combined(first->second, evaluations.size()));
    evaluations.back().version = first->first;
    evaluations.back().set = set;
  }
  retire(first);
  return evaluations;
}

void Evaluator::retire(std::map<std::int64_t, Running>::iterator done) {
  last_version_ = done->first;
  last_model_ = std::move(done->second.model);
  running_.erase(done);
}

}  // namespace espalier
