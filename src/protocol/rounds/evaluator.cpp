#include "espalier/protocol/rounds/evaluator.h"

#include <cmath>
#include <cstring>

namespace espalier {

Evaluator::Evaluator(const Experiment& experiment, const EvaluationPlan& plan, Pool& pool)
    : experiment_(experiment), plan_(plan), pool_(pool) {
  pool_.on_evaluation([this](const Shard& shard, ShardKind kind, const SharedBytes& payload) {
    take(shard, kind, payload);
  });
}

void Evaluator::start(std::int64_t version, Nanoseconds time, const Parameters& model) {
  Running& running = running_[version];
  running.time = time;
  running.model = Parameters(model.geometry_ptr());
  std::memcpy(running.model.data(), model.data(),
              static_cast<std::size_t>(model.geometry().size()) * sizeof(float));
  running.statistics.resize(static_cast<std::size_t>(plan_.calibration_batches()));
  running.sums.resize(static_cast<std::size_t>(plan_.test_batches()));
  send(version, running,
       plan_.calibration_samples > 0 ? ShardKind::calibrate : ShardKind::evaluate);
}

void Evaluator::archive(Archive& archive, const Parameters& model) {
  std::vector<std::int64_t> versions, times;
  for (const auto& [version, running] : running_) {
    versions.push_back(version);
    times.push_back(running.time);
  }
  archive.value("versions", versions);
  archive.value("times", times);
  for (std::size_t i = 0; i < versions.size(); ++i) {
    Parameters copy;
    if (archive.loading()) copy = Parameters(model.geometry_ptr());
    Parameters& values = archive.loading() ? copy : running_.at(versions[i]).model;
    archive.value(
        formatted("model_{}", versions[i]).c_str(),
        std::span<float>(values.data(), static_cast<std::size_t>(values.geometry().size())));
    if (archive.loading()) start(versions[i], times[i], values);
  }
}

void Evaluator::send(std::int64_t version, Running& running, ShardKind kind) {
  const auto dense = experiment_.plans->geometry(running.model.submodel(), Packing::dense);
  auto values = std::make_shared<Bytes>(static_cast<std::size_t>(dense->size()) * sizeof(float));
  experiment_.plans->plan(running.model.geometry(), *dense)
      ->copy(std::as_const(running.model).data(), reinterpret_cast<float*>(values->data()));
  pool_.evaluate(version, kind,
                 kind == ShardKind::calibrate ? plan_.calibration_batches() : plan_.test_batches(),
                 std::move(values));
}

void Evaluator::take(const Shard& shard, ShardKind kind, const SharedBytes& payload) {
  Running& running = running_.at(shard.version);
  const std::int64_t batches = shard.last - shard.first;
  if (kind == ShardKind::calibrate) {
    const std::size_t each = payload->size() / sizeof(float) / static_cast<std::size_t>(batches);
    for (std::int64_t b = 0; b < batches; ++b) {
      auto& values = running.statistics[static_cast<std::size_t>(shard.first + b)];
      values.resize(each);
      std::memcpy(values.data(),
                  payload->data() + static_cast<std::size_t>(b) * each * sizeof(float),
                  each * sizeof(float));
    }
    running.calibrated += batches;
    if (running.calibrated == plan_.calibration_batches()) {
      set_statistics(running.model, running.statistics);
      send(shard.version, running, ShardKind::evaluate);
    }
    return;
  }
  const std::size_t sets = evaluated_sets(experiment_.model).size();
  double four[4];
  ESPALIER_CHECK(payload->size() == static_cast<std::size_t>(batches) * sets * sizeof(four),
                 "evaluation shard of {} bytes", payload->size());
  const std::byte* next = payload->data();
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
    const EvaluationSums& sums = batch[set];
    total.samples += sums.samples;
    total.loss += sums.loss;
    total.top1 += sums.top1;
    total.top5 += sums.top5;
  }
  const auto samples = static_cast<double>(total.samples);
  Evaluation evaluation;
  evaluation.time = running.time;
  evaluation.loss = total.loss / samples;
  if (experiment_.model.shape.next_token) {
    evaluation.perplexity = std::exp(evaluation.loss);
  } else {
    evaluation.top1 = static_cast<double>(total.top1) / samples;
    evaluation.top5 = static_cast<double>(total.top5) / samples;
  }
  return evaluation;
}

std::vector<Evaluation> Evaluator::next() {
  std::vector<Evaluation> evaluations;
  if (running_.empty()) return evaluations;
  const auto first = running_.begin();
  if (first->second.evaluated < plan_.test_batches()) return evaluations;
  for (const std::string& set : evaluated_sets(experiment_.model)) {
    evaluations.push_back(combined(first->second, evaluations.size()));
    evaluations.back().version = first->first;
    evaluations.back().set = set;
  }
  last_model_ = std::move(first->second.model);
  running_.erase(first);
  return evaluations;
}

}  // namespace espalier
