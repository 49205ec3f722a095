#include "espalier/protocol/regions/shared_copy.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/train/evaluate.h"

namespace espalier::regions {
namespace {

/// For some tensors of a fragment, the mean of the differences' directions and lengths.
class RadialMean {
 public:
  RadialMean(std::span<const Range> tensors, std::size_t values)
      : tensors_(tensors), directions_(values, 0.0), lengths_(tensors.size(), 0.0) {}

  void add(double weight, std::span<const double> difference) {
    for (std::size_t k = 0; k < tensors_.size(); ++k) {
      const double length = norm(tensors_[k], difference);
      lengths_[k] += weight * length;
      if (length == 0) continue;
      for_each(tensors_[k],
               [&](std::size_t i) { directions_[i] += weight * difference[i] / length; });
    }
  }
  /// Replaces `difference`, the mean, unless the directions cancel. `weights`: the sum of all.
  void apply(double weights, std::span<double> difference) const {
    for (std::size_t k = 0; k < tensors_.size(); ++k) {
      const double length = norm(tensors_[k], directions_);
      if (length <= kCancelled * weights) continue;
      const double scale = lengths_[k] / weights / length;
      for_each(tensors_[k], [&](std::size_t i) { difference[i] = scale * directions_[i]; });
    }
  }

 private:
  /// A mean of unit vectors shorter than this comes from the rounding of float32 values.
  static constexpr double kCancelled = 1e-6;

  template <class Function>
  static void for_each(const Range& range, Function function) {
    for (auto i = static_cast<std::size_t>(range.begin); i < static_cast<std::size_t>(range.end);
         ++i) {
      function(i);
    }
  }
  static double norm(const Range& range, std::span<const double> values) {
    double square = 0;
    for_each(range, [&](std::size_t i) { square += values[i] * values[i]; });
    return std::sqrt(square);
  }

  std::span<const Range> tensors_;
  std::vector<double> directions_;
  std::vector<double> lengths_;  // by tensor
};

Bytes bytes_of(const std::vector<float>& values) {
  Bytes bytes(values.size() * sizeof(float));
  std::ranges::copy(values, floats_of(bytes).begin());
  return bytes;
}

}  // namespace

void declare_merge_options(OptionTable& table) {
  table.add_choice("regions.merge", "mean",
                   "mean of the regions' differences, or radial: the mean of their directions with "
                   "the mean of their lengths, for each tensor between the first and the last "
                   "block",
                   {"mean", "radial"});
  declare_outer_options(table);
}

MergeSettings merge_settings(const Config& config) {
  return {outer_settings(config), config.text("regions.merge") == "radial"};
}

SharedCopy::SharedCopy(const Experiment& experiment, const RegionSettings& settings,
                       MergeSettings merge, Parameters model)
    : experiment_(experiment),
      settings_(settings),
      model_(std::move(model)),
      is_radial_(merge.is_radial) {
  if (settings.gradients) {
    inner_.emplace(experiment.train, model_.trainable().numel());
    return;
  }
  for (const Fragment& fragment : settings.fragments) {
    outer_.emplace_back(merge.outer, fragment.values());
    if (settings.local_base) bases_.push_back(fragment_values(fragment));
  }
}

Bytes SharedCopy::values() const {
  const Submodel full = Submodel::full(*experiment_.model.layout);
  return std::move(*pack_payload(*experiment_.plans, model_,
                                 *experiment_.plans->buffer_layout(full, Packing::dense)));
}

Bytes SharedCopy::unchanged(std::int64_t index) const {
  const Fragment& fragment = settings_.fragments[static_cast<std::size_t>(index)];
  const auto size = static_cast<std::size_t>(fragment.values());
  const bool is_movement = settings_.gradients || settings_.local_base;
  return bytes_of(is_movement ? std::vector<float>(size, 0.0F) : fragment_values(fragment));
}

/// The values from which the regions' differences are taken; zero for gradients.
std::vector<float> SharedCopy::base_of(std::int64_t index) const {
  const auto i = static_cast<std::size_t>(index);
  const Fragment& fragment = settings_.fragments[i];
  if (settings_.gradients) return std::vector<float>(static_cast<std::size_t>(fragment.values()));
  return settings_.local_base ? bases_[i] : fragment_values(fragment);
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
  const std::vector<float> base = base_of(index);
  RadialMean radial(fragment.inner_tensors, is_radial_ ? size : 0);
  std::vector<float> sent(size);
  std::vector<double> difference(size);
  std::vector<double> mean(size, 0.0);
  double all = 0;
  double weights = 0;
  const double first = std::ranges::find_if(contributions, [](const Contribution& c) {
                         return c.weight > 0;
                       })->weight;
  for (Contribution& contribution : contributions) {
    // Divide by the first weight that is not 0, so that equal weights are exactly 1.
    const double weight = contribution.weight / first;
    all += weight;
    weights += contribution.weight;
    decode(settings_.codec, fragment.tensors, *contribution.values, sent);
    double square = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const double before = base[i];
      const double value =
          settings_.sends_differences() ? before - static_cast<double>(sent[i]) : sent[i];
      mean[i] += weight * value;
      difference[i] = before - value;
      square += difference[i] * difference[i];
    }
    contribution.norm = std::sqrt(square);
    if (is_radial_) radial.add(weight, difference);
  }
  for (Contribution& contribution : contributions) contribution.weight /= weights;
  for (std::size_t i = 0; i < size; ++i) {
    mean[i] /= all;
    difference[i] = static_cast<double>(base[i]) - mean[i];
  }
  if (is_radial_) {
    radial.apply(all, difference);
    for (const Range& tensor : fragment.inner_tensors) {
      for (auto i = static_cast<std::size_t>(tensor.begin);
           i < static_cast<std::size_t>(tensor.end); ++i) {
        mean[i] = static_cast<double>(base[i]) - difference[i];
      }
    }
  }
  double square = 0;
  for (const double d : difference) square += d * d;
  if (!std::isfinite(square)) {
    throw NotFiniteError("the values of a region are not finite; lower train.lr or set train.clip");
  }
  return {bytes_of(moved(index, step, base, mean)), std::sqrt(square)};
}

/// Moves the shared copy to the mean, by the optimiser; returns what the regions get.
std::vector<float> SharedCopy::moved(std::int64_t index, std::int64_t step,
                                     const std::vector<float>& base,
                                     const std::vector<double>& mean) {
  const auto i = static_cast<std::size_t>(index);
  const Fragment& fragment = settings_.fragments[i];
  const auto rounded = [](double x) { return static_cast<float>(x); };
  std::vector<float> values = base;
  if (settings_.gradients) {
    std::ranges::transform(mean, values.begin(), rounded);
    step_along(fragment, step, values);
    forget_statistics(model_);
    return values;
  }
  outer_[i].step(values, mean);
  experiment_.plans->plan(*fragment.layout, model_.buffer_layout(), nullptr, kTrained)
      ->copy(values.data(), model_.data());
  forget_statistics(model_);
  if (!settings_.local_base) return values;
  for (std::size_t k = 0; k < values.size(); ++k) values[k] = base[k] - values[k];
  std::ranges::transform(mean, bases_[i].begin(), rounded);
  return values;
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
    if (settings_.local_base) archive.value("base", std::span<float>(bases_[i]));
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
