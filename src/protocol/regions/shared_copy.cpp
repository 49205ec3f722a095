#include "espalier/protocol/regions/shared_copy.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/train/evaluate.h"

namespace espalier::regions {

SharedCopy::SharedCopy(const Experiment& experiment, const RegionSettings& settings,
                       OuterSettings outer, Parameters model)
    : experiment_(experiment), settings_(settings), model_(std::move(model)) {
  if (settings.gradients) {
    inner_.emplace(experiment.train, model_.trainable().numel());
    return;
  }
  for (const Fragment& fragment : settings.fragments) outer_.emplace_back(outer, fragment.values());
}

Bytes SharedCopy::values() const {
  const Submodel full = Submodel::full(*experiment_.model.layout);
  return *pack_payload(*experiment_.plans, model_,
                       *experiment_.plans->buffer_layout(full, Packing::dense));
}

Bytes SharedCopy::unchanged(std::int64_t index) const {
  const Fragment& fragment = settings_.fragments[static_cast<std::size_t>(index)];
  const auto size = static_cast<std::size_t>(fragment.values());
  const std::vector<float> values =
      settings_.gradients ? std::vector<float>(size, 0.0F) : fragment_values(fragment);
  Bytes bytes(size * sizeof(float));
  std::ranges::copy(values, floats_of(bytes).begin());
  return bytes;
}

std::vector<float> SharedCopy::fragment_values(const Fragment& fragment) const {
  std::vector<float> values(static_cast<std::size_t>(fragment.values()));
  experiment_.plans->plan(model_.buffer_layout(), *fragment.layout, nullptr, kTrained)
      ->copy(model_.data(), values.data());
  return values;
}

SharedCopy::Merged SharedCopy::merge(std::int64_t index, std::int64_t step,
                                     std::span<Contribution> contributions) {
  const Fragment& fragment = settings_.fragments[static_cast<std::size_t>(index)];
  const auto size = static_cast<std::size_t>(fragment.values());
  std::vector<float> shared =
      settings_.gradients ? std::vector<float>(size, 0.0F) : fragment_values(fragment);
  // With float32 a region sends its values, from which the difference follows without rounding.
  const bool is_difference = settings_.codec != Codec::float32 && !settings_.gradients;
  std::vector<float> sent(size);
  std::vector<double> mean(size, 0.0);
  double all = 0;
  double weights = 0;
  const double first = contributions.front().weight;
  for (Contribution& contribution : contributions) {
    // Divide by the first weight, so that equal weights are exactly 1.
    const double weight = contribution.weight / first;
    all += weight;
    weights += contribution.weight;
    decode(settings_.codec, fragment.tensors, *contribution.values, sent);
    double square = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const double before = shared[i];
      const double value = is_difference ? before - static_cast<double>(sent[i]) : sent[i];
      mean[i] += weight * value;
      square += (before - value) * (before - value);
    }
    contribution.norm = std::sqrt(square);
  }
  for (Contribution& contribution : contributions) contribution.weight /= weights;
  double square = 0;
  for (std::size_t i = 0; i < size; ++i) {
    mean[i] /= all;
    const double difference = static_cast<double>(shared[i]) - mean[i];
    square += difference * difference;
  }
  if (!std::isfinite(square)) {
    throw NotFiniteError("the values of a region are not finite; lower train.lr or set train.clip");
  }
  if (settings_.gradients) {
    std::ranges::transform(mean, shared.begin(), [](double x) { return static_cast<float>(x); });
    step_along(fragment, step, shared);
  } else {
    outer_[static_cast<std::size_t>(index)].step(shared, mean);
    experiment_.plans->plan(*fragment.layout, model_.buffer_layout(), nullptr, kTrained)
        ->copy(shared.data(), model_.data());
  }
  forget_statistics(model_);
  Merged merged{Bytes(size * sizeof(float)), std::sqrt(square)};
  std::ranges::copy(shared, floats_of(merged.values).begin());
  return merged;
}

/// The step that every region makes too.
void SharedCopy::step_along(const Fragment& fragment, std::int64_t step,
                            std::span<const float> gradient) {
  at::Tensor flat = at::zeros({model_.trainable().numel()}, at::kFloat);
  experiment_.plans->plan(*fragment.layout, model_.buffer_layout(), nullptr, kTrained)
      ->copy(gradient.data(), flat.data_ptr<float>());
  if (experiment_.train.clip > 0) clip_gradients(flat, experiment_.train.clip);
  inner_->step(model_.trainable(), flat, learning_rate(settings_.train, step - 1));
}

void SharedCopy::archive(Archive& archive) {
  for (std::size_t i = 0; i < outer_.size(); ++i) {
    archive.open(("outer_" + std::to_string(i)).c_str());
    outer_[i].archive(archive);
    archive.close();
  }
  if (inner_) archive_inner(archive);
}

void SharedCopy::archive_inner(Archive& archive) {
  Bytes state;
  if (!archive.loading()) {
    ByteArchive out;
    inner_->archive(out, *experiment_.plans, model_.buffer_layout());
    state = out.take();
  }
  archive.value("inner", state);
  if (!archive.loading()) return;
  ByteArchive in(state);
  inner_->archive(in, *experiment_.plans, model_.buffer_layout());
}

}  // namespace espalier::regions
