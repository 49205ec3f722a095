#include "espalier/train/penalty.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "espalier/base/error.h"
#include "espalier/base/wide.h"

namespace espalier {
namespace {

// Fewest values per thread.
constexpr std::int64_t kPenaltyGrain = 32768;

/// The outermost axis of an entry's outputs; -1 if there is none. A head comes before its columns.
int output_axis(const Entry& entry) {
  for (const Factor& factor : entry.dimensions.front()) {
    if (factor.axis >= 0) return factor.axis;
  }
  return -1;
}

/// Whether the entry is the weight of a layer; norms have one dimension.
bool is_matrix(const Entry& entry) { return entry.dimensions.size() > 1; }

bool is_norm_scale(const Entry& entry) {
  return !is_matrix(entry) && entry.name.ends_with(".weight");
}

/// Whether the entry is a weight or a bias of a layer. A norm's shift is named like a bias.
bool is_of_layer(const Entry& entry, const std::set<std::string>& matrices) {
  if (is_matrix(entry)) return true;
  const std::string layer = entry.name.substr(0, entry.name.rfind('.'));
  return entry.name.ends_with(".bias") && matrices.contains(layer + ".weight");
}

std::set<std::string> matrix_names(const Layout& layout) {
  std::set<std::string> names;
  for (const Entry& entry : layout.entries) {
    if (is_matrix(entry)) names.insert(entry.name);
  }
  return names;
}

/// The blocks with layers whose outputs are units of each axis.
std::vector<std::set<int>> writers_of_axes(const Layout& layout) {
  std::vector<std::set<int>> writers(layout.axes.size());
  for (const Entry& entry : layout.entries) {
    const int axis = is_matrix(entry) ? output_axis(entry) : -1;
    if (axis >= 0) writers[static_cast<std::size_t>(axis)].insert(entry.block);
  }
  return writers;
}

/// Eight partial sums, so that the order of additions does not depend on the width of registers.
ESPALIER_WIDE double sum_of_squares(const float* __restrict values, std::int64_t count) {
  constexpr std::int64_t kLanes = 8;
  double sums[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t j = 0; j < kLanes; ++j) {
      const double value = values[i + j];
      sums[j] += value * value;
    }
  }
  double sum = 0;
  for (; i < count; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  for (const double lane : sums) sum += lane;
  return sum;
}

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

std::vector<int> unit_axes(const Model& model) {
  const Layout& layout = *model.layout;
  const std::vector<std::set<int>> writers = writers_of_axes(layout);
  std::set<int> heads, streams;
  for (const TransformerAxes& axes : model.transformer) heads.insert(axes.heads);
  for (const Axis& axis : layout.axes) {
    if (axis.within >= 0) streams.insert(axis.within);
  }
  std::vector<int> found;
  for (int axis = 0; axis < static_cast<int>(layout.axes.size()); ++axis) {
    const Axis& own = layout.axes[static_cast<std::size_t>(axis)];
    const bool can_be_cut = own.within < 0 && (own.cuttable || heads.contains(axis));
    const bool has_one_writer = writers[static_cast<std::size_t>(axis)].size() == 1;
    if (can_be_cut && has_one_writer && !streams.contains(axis)) found.push_back(axis);
  }
  return found;
}

bool has_penalty(const TrainSettings& settings) {
  return settings.group_lasso > 0 || settings.scale_l1 > 0;
}

void refuse_idle_penalties(const TrainSettings& settings, const Model& model) {
  if (!has_penalty(settings)) return;
  const BufferLayout full(model.layout, Submodel::full(*model.layout), Packing::aligned);
  const Penalty penalty(settings, model, full);
  if (settings.group_lasso > 0 && penalty.grouped() == 0) {
    throw InputError(
        formatted("train.group_lasso = {}: model.name = {} has no hidden units; add a hidden layer "
                  "or leave train.group_lasso out",
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
  const Layout& layout = buffer_layout.layout();
  const Submodel& submodel = buffer_layout.submodel();
  const std::set<std::string> matrices = matrix_names(layout);
  const std::int64_t origin = buffer_layout.kind_range(Kind::trainable).begin;
  const std::vector<int> axes = unit_axes(model);
  std::vector<Units> units(layout.axes.size());
  for (std::size_t index = 0; index < layout.entries.size(); ++index) {
    const Entry& entry = layout.entries[index];
    const BufferLayout::Place& place = buffer_layout.place(static_cast<int>(index));
    const int axis = output_axis(entry);
    if (entry.kind != Kind::trainable || !place.present || !std::ranges::binary_search(axes, axis))
      continue;
    const std::int64_t offset = place.offset - origin;
    if (l1_ > 0 && is_norm_scale(entry)) {
      scale_places_.push_back({offset, offset + place.count});
      scales_ += place.count;
    }
    if (lasso_ == 0 || !is_of_layer(entry, matrices)) continue;
    std::int64_t rows = 1;
    for (const Factor& factor : entry.dimensions.front()) {
      if (factor.axis >= 0) break;
      rows *= factor.size;
    }
    Units& own = units[static_cast<std::size_t>(axis)];
    own.count = submodel.width(axis);
    own.pieces.push_back({offset, rows, place.count / (rows * own.count)});
    own.group_size += place.count / own.count;
    grouped_ += place.count;
  }
  for (Units& own : units) {
    if (own.count > 0) units_.push_back(std::move(own));
  }
}

void Penalty::add_gradient(const at::Tensor& weights, const at::Tensor& gradients) const {
  const float* const w = weights.const_data_ptr<float>();
  float* const g = gradients.data_ptr<float>();
  for (const Units& units : units_) {
    const std::int64_t grain = kPenaltyGrain / units.group_size + 1;
    at::parallel_for(0, units.count, grain, [&](std::int64_t unit, std::int64_t end) {
      for (; unit < end; ++unit) add_lasso(units, unit, w, g);
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
void Penalty::add_lasso(const Units& units, std::int64_t unit, const float* weights,
                        float* gradients) const {
  const auto for_each_row = [&](const auto& work) {
    for (const Piece& piece : units.pieces) {
      for (std::int64_t row = 0; row < piece.rows; ++row) {
        work(piece.offset + (row * units.count + unit) * piece.size, piece.size);
      }
    }
  };
  double square = 0;
  for_each_row([&](std::int64_t offset, std::int64_t size) {
    square += sum_of_squares(weights + offset, size);
  });
  if (square == 0) return;
  const auto factor = static_cast<float>(lasso_ * std::sqrt(static_cast<double>(units.group_size)) /
                                         std::sqrt(square));
  for_each_row([&](std::int64_t offset, std::int64_t size) {
    add_scaled(factor, weights + offset, gradients + offset, size);
  });
}

}  // namespace espalier
