#include "espalier/train/penalty.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/wide.h"
#include "espalier/base/wide_sums.h"

namespace espalier {
namespace {

// Fewest values per thread.
constexpr std::int64_t kPenaltyGrain = 32768;

ESPALIER_WIDE void add_scaled(float factor, const float* __restrict values, float* __restrict sums,
                              std::int64_t count) {
  constexpr std::int64_t kBlock = 16;
  std::int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    for (std::int64_t j = 0; j < kBlock; ++j) sums[i + j] += factor * values[i + j];
  }
  for (; i < count; ++i) sums[i] += factor * values[i];
}

}  // namespace

bool has_penalty(const TrainSettings& settings) {
  return settings.group_lasso > 0 || settings.scale_l1 > 0;
}

void refuse_idle_penalties(const TrainSettings& settings, const Model& model) {
  if (!has_penalty(settings)) return;
  const BufferLayout full(model.layout, Submodel::full(*model.layout), Packing::aligned);
  const Penalty penalty(settings, model, full);
  if (settings.group_lasso > 0 && penalty.grouped() == 0) {
    throw InputError(
        formatted("train.group_lasso = {}: no hidden unit of model.name = {} has weights that are "
                  "trained; set train.group_lasso = 0, add a hidden layer, or freeze less",
                  settings.group_lasso, model.name));
  }
  if (settings.scale_l1 > 0 && penalty.scales() == 0) {
    throw InputError(formatted(
        "train.scale_l1 = {}: this {} has no norm whose scales belong to single units; set "
        "model.norm = batch, group or layer (mlp, lenet, cnn, vgg, resnet), or use "
        "train.group_lasso instead",
        settings.scale_l1, model.name));
  }
}

Penalty::Penalty(const TrainSettings& settings, const Model& model,
                 const BufferLayout& buffer_layout)
    : lasso_(settings.group_lasso), l1_(settings.scale_l1) {
  const std::int64_t origin = buffer_layout.kind_range(Kind::trainable).begin;
  for (const int axis : prunable_axes(model)) {
    const int scale = scale_entry(buffer_layout.layout(), axis);
    if (l1_ > 0 && scale >= 0 && buffer_layout.place(scale).present) {
      const BufferLayout::Place& place = buffer_layout.place(scale);
      scale_places_.push_back({place.offset - origin, place.offset - origin + place.count});
      scales_ += place.count;
    }
    if (lasso_ == 0) continue;
    Group group{incoming_weights(buffer_layout, axis, /*with_biases=*/true)};
    if (group.places.empty()) continue;
    group.units = buffer_layout.submodel().width(axis);
    for (UnitPlaces& places : group.places) {
      places.offset -= origin;
      group.size += places.outer * places.inner;
    }
    grouped_ += group.units * group.size;
    groups_.push_back(std::move(group));
  }
}

void Penalty::add_gradient(const at::Tensor& weights, const at::Tensor& gradients) const {
  const float* const w = weights.const_data_ptr<float>();
  float* const g = gradients.data_ptr<float>();
  for (const Group& group : groups_) {
    const std::int64_t grain = kPenaltyGrain / group.size + 1;
    at::parallel_for(0, group.units, grain, [&](std::int64_t unit, std::int64_t end) {
      for (; unit < end; ++unit) add_lasso(group, unit, w, g);
    });
  }
  const auto push = static_cast<float>(l1_);
  for (const Range& range : scale_places_) {
    for (std::int64_t i = range.begin; i < range.end; ++i) {
      g[i] += w[i] > 0 ? push : w[i] < 0 ? -push : 0.0F;
    }
  }
}

/// lambda sqrt(|g|) w / ||w||; zero for a group of zeros, where it is a subgradient.
void Penalty::add_lasso(const Group& group, std::int64_t unit, const float* weights,
                        float* gradients) const {
  const auto for_each_row = [&](const auto& work) {
    for (const UnitPlaces& p : group.places) {
      for (std::int64_t row = 0; row < p.outer; ++row) {
        work(p.offset + (row * p.units + unit) * p.inner, p.inner);
      }
    }
  };
  double square = 0;
  for_each_row([&](std::int64_t offset, std::int64_t size) {
    square += sum_of_products(weights + offset, weights + offset, size);
  });
  if (square == 0) return;
  const auto factor =
      static_cast<float>(lasso_ * std::sqrt(static_cast<double>(group.size)) / std::sqrt(square));
  for_each_row([&](std::int64_t offset, std::int64_t size) {
    add_scaled(factor, weights + offset, gradients + offset, size);
  });
}

}  // namespace espalier
