#include "espalier/protocol/rounds/evaluator.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace espalier {

Evaluator::Evaluator(const Experiment& experiment, const EvaluationPlan& plan, Pool& pool)
    : experiment_(experiment), plan_(plan), pool_(pool) {
  pool_.on_evaluation([this](const Shard& shard, ShardKind kind, const SharedBytes& payload) {
    take(shard, kind, payload);
  });
}

void Evaluator::start(std::int64_t version, Nanoseconds time, const Parameters& model) {
  Running& running = hold(version, model);
  running.time = time;
  running.is_evaluated = true;
  if (running.is_calibrated) {
    send(version, running, ShardKind::evaluate);
  } else {
    calibrate(version, running, false);
  }
}

void Evaluator::calibrate(std::int64_t version, const Parameters& model) {
  if (calibrated(version) != nullptr || !lacks_statistics(model)) return;
  calibrate(version, hold(version, model), true);
}

/// What is known of the version, or a copy of its model with nothing known of it.
Evaluator::Running& Evaluator::hold(std::int64_t version, const Parameters& model) {
  const auto [place, added] = running_.try_emplace(version);
  Running& running = place->second;
  if (!added) return running;
  running.model = Parameters(model.geometry_ptr());
  std::memcpy(running.model.data(), model.data(),
              static_cast<std::size_t>(model.geometry().size()) * sizeof(float));
  running.is_calibrated = !lacks_statistics(model);
  running.moments.resize(static_cast<std::size_t>(plan_.calibration_batches()));
  running.sums.resize(static_cast<std::size_t>(plan_.test_batches()));
  return running;
}

/// Unless that is under way; what waits for an idle rank is sent again if it becomes urgent, and
/// counts once.
void Evaluator::calibrate(std::int64_t version, Running& running, bool urgent) {
  if (running.is_urgent || (running.is_sent && !urgent)) return;
  running.is_sent = true;
  running.is_urgent = urgent;
  send(version, running, ShardKind::calibrate);
}

const Parameters* Evaluator::calibrated(std::int64_t version) const {
  if (version == last_version_) return &last_model_;
  const auto known = running_.find(version);
  return known != running_.end() && known->second.is_calibrated ? &known->second.model : nullptr;
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
                 std::move(values), kind == ShardKind::calibrate && running.is_urgent);
}

/// Of batches that are not known yet.
void Evaluator::take_moments(Running& running, const Shard& shard, const SharedBytes& payload) {
  const std::int64_t batches = shard.last - shard.first;
  const std::size_t each = payload->size() / sizeof(double) / static_cast<std::size_t>(batches);
  const std::byte* next = payload->data();
  for (std::int64_t b = shard.first; b < shard.last; ++b, next += each * sizeof(double)) {
    auto& moments = running.moments[static_cast<std::size_t>(b)];
    moments.resize(each);
    std::memcpy(moments.data(), next, each * sizeof(double));
  }
  if (std::ranges::any_of(running.moments, [](const auto& m) { return m.empty(); })) return;
  set_statistics(running.model, running.moments);
  running.is_calibrated = true;
  if (running.is_evaluated) send(shard.version, running, ShardKind::evaluate);
}

void Evaluator::take(const Shard& shard, ShardKind kind, const SharedBytes& payload) {
  const auto known = running_.find(shard.version);
  if (kind == ShardKind::calibrate) {
    if (known != running_.end() && !known->second.is_calibrated) {
      take_moments(known->second, shard, payload);
    }
    return;
  }
  Running& running = running_.at(shard.version);
  const std::int64_t batches = shard.last - shard.first;
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
