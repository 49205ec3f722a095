#include "espalier/model/unit_order.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <string>

#include "espalier/base/error.h"
#include "espalier/base/wide_sums.h"

namespace espalier {
namespace {

constexpr double kAbsent = -std::numeric_limits<double>::infinity();

bool has_axis(const Dimension& dimension, int axis) {
  return std::ranges::any_of(dimension, [&](const Factor& factor) { return factor.axis == axis; });
}

/// A layer's name: "conv1" of "conv1.weight" and "conv1.bias".
std::string layer_of(const Entry& entry) { return entry.name.substr(0, entry.name.rfind('.')); }

/// "conv1.bias", "lstm.bias_ih_l0".
bool is_named_bias(const Entry& entry) {
  return entry.name.substr(entry.name.rfind('.') + 1).starts_with("bias");
}

bool is_weight_matrix(const Entry& entry) { return entry.dimensions.size() > 1; }

/// Whether the axis has one layer that makes its units and one that reads them. A classifier at an
/// exit is not counted, nor a recurrent weight, by which a layer reads its own units.
bool joins_two_layers(const Model& model, int axis) {
  std::set<std::string> makers, readers;
  for (const Entry& entry : model.layout->entries) {
    if (!is_weight_matrix(entry) || entry.adapter) continue;
    const bool makes = has_axis(entry.dimensions[0], axis);
    const bool reads = has_axis(entry.dimensions[1], axis);
    if (makes && reads) continue;
    if (makes) makers.insert(layer_of(entry));
    const bool at_exit = model.is_exit(entry.block) && model.exits.size() > 1 && !model.is_ensemble;
    if (!at_exit && reads) readers.insert(layer_of(entry));
  }
  return makers.size() == 1 && readers.size() <= 1;
}

/// Calls work(unit, offset, count) for each run of a kept unit's incoming weights.
template <class Work>
void for_each_run(const std::vector<UnitPlaces>& entries, const Work& work) {
  for (const UnitPlaces& p : entries) {
    std::int64_t offset = p.offset;
    for (std::int64_t o = 0; o < p.outer; ++o) {
      for (std::int64_t unit = 0; unit < p.units; ++unit, offset += p.inner) {
        work(static_cast<std::size_t>(unit), offset, p.inner);
      }
    }
  }
}

/// The sum of sum_of_run(offset, count) over the runs of each kept unit's incoming weights.
template <class Sum>
std::vector<double> unit_sums(const std::vector<UnitPlaces>& entries, std::int64_t units,
                              const Sum& sum_of_run) {
  std::vector<double> sums(static_cast<std::size_t>(units), 0.0);
  for_each_run(entries, [&](std::size_t unit, std::int64_t offset, std::int64_t count) {
    sums[unit] += sum_of_run(offset, count);
  });
  return sums;
}

/// The sum of each unit's distances to all others.
std::vector<double> distance_sums(const std::vector<UnitPlaces>& entries, std::int64_t units,
                                  const float* values) {
  std::vector<std::vector<float>> weights(static_cast<std::size_t>(units));
  for_each_run(entries, [&](std::size_t unit, std::int64_t offset, std::int64_t count) {
    weights[unit].insert(weights[unit].end(), values + offset, values + offset + count);
  });
  std::vector<double> sums(weights.size(), 0.0);
  for (std::size_t a = 0; a < weights.size(); ++a) {
    for (std::size_t b = a + 1; b < weights.size(); ++b) {
      const double distance =
          std::sqrt(squared_distance(weights[a].data(), weights[b].data(), std::ssize(weights[a])));
      sums[a] += distance;
      sums[b] += distance;
    }
  }
  return sums;
}

void divide_by_mean(std::vector<double>& scores) {
  const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  if (!(sum > 0)) return;
  for (double& score : scores) score *= static_cast<double>(scores.size()) / sum;
}

/// The scores of the kept units of one axis.
std::vector<double> kept_scores(const BufferLayout& buffer_layout, int axis,
                                std::span<const float> values, Importance importance,
                                std::span<const float> gradient) {
  const std::int64_t units = buffer_layout.submodel().width(axis);
  const std::vector<UnitPlaces> weights = incoming_weights(buffer_layout, axis);
  const float* const v = values.data();
  std::vector<double> scores;
  switch (importance) {
    case Importance::scale: {
      const int scales = scale_entry(buffer_layout.layout(), axis);
      if (scales >= 0 && buffer_layout.place(scales).present) {  // messages lack personal ones
        const BufferLayout::Place& place = buffer_layout.place(scales);
        for (std::int64_t i = 0; i < place.count; ++i) {
          scores.push_back(std::abs(static_cast<double>(v[place.offset + i])));
        }
        return scores;
      }
      scores = unit_sums(weights, units, [&](std::int64_t offset, std::int64_t count) {
        return sum_of_products(v + offset, v + offset, count);
      });
      for (double& score : scores) score = std::sqrt(score);
      break;
    }
    case Importance::norm:
      scores = unit_sums(weights, units, [&](std::int64_t offset, std::int64_t count) {
        return sum_of_magnitudes(v + offset, count);
      });
      break;
    case Importance::taylor:
      scores = unit_sums(weights, units, [&](std::int64_t offset, std::int64_t count) {
        return sum_of_products(gradient.data() + offset, v + offset, count);
      });
      for (double& score : scores) score = std::abs(score);
      break;
    case Importance::median:
      scores = distance_sums(weights, units, v);
      break;
    case Importance::index:
      for (std::int64_t i = 0; i < units; ++i) {
        scores.push_back(1 - static_cast<double>(i) / static_cast<double>(units));
      }
      return scores;
  }
  divide_by_mean(scores);
  return scores;
}

}  // namespace

int scale_entry(const Layout& layout, int axis) {
  for (std::size_t i = 0; i < layout.entries.size(); ++i) {
    const Entry& entry = layout.entries[i];
    if (entry.kind == Kind::trainable && entry.dimensions.size() == 1 &&
        entry.name.ends_with(".weight") && has_axis(entry.dimensions[0], axis)) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

std::vector<UnitPlaces> incoming_weights(const BufferLayout& buffer_layout, int axis,
                                         bool with_biases) {
  const Layout& layout = buffer_layout.layout();
  const Submodel& submodel = buffer_layout.submodel();
  std::set<std::string> layers;  // whose weights are found; a norm's shift is named like a bias
  std::vector<UnitPlaces> all;
  for (std::size_t index = 0; index < layout.entries.size(); ++index) {
    const Entry& entry = layout.entries[index];
    const BufferLayout::Place& place = buffer_layout.place(static_cast<int>(index));
    if (entry.kind == Kind::frozen || entry.adapter) continue;
    if (!place.present || !has_axis(entry.dimensions[0], axis)) continue;
    const bool is_bias = is_named_bias(entry) && layers.contains(layer_of(entry));
    if (!is_weight_matrix(entry) && !(with_biases && is_bias)) continue;
    layers.insert(layer_of(entry));
    UnitPlaces places{place.offset, 1, submodel.width(axis), 1};
    for (const Factor& factor : entry.dimensions[0]) {
      if (factor.axis == axis) break;
      places.outer *= factor.axis < 0 ? factor.size : submodel.width(factor.axis);
    }
    places.inner = place.count / (places.outer * places.units);
    all.push_back(places);
  }
  return all;
}

std::vector<int> prunable_axes(const Model& model) {
  std::vector<int> axes;
  std::set<int> of_transformers;
  for (const TransformerAxes& t : model.transformer) {
    axes.insert(axes.end(), {t.heads, t.hidden});
    of_transformers.insert({t.heads, t.columns, t.value_columns, t.hidden});
  }
  for (std::size_t i = 0; i < model.layout->axes.size(); ++i) {
    const Axis& axis = model.layout->axes[i];
    const int index = static_cast<int>(i);
    if (axis.cuttable && axis.within < 0 && !of_transformers.contains(index) &&
        joins_two_layers(model, index)) {
      axes.push_back(index);
    }
  }
  return axes;
}

UnitScores unit_scores(const Model& model, const BufferLayout& buffer_layout,
                       std::span<const float> values, Importance importance,
                       std::span<const float> gradient) {
  const Submodel& submodel = buffer_layout.submodel();
  UnitScores all;
  for (const int axis : prunable_axes(model)) {
    const std::vector<double> kept = kept_scores(buffer_layout, axis, values, importance, gradient);
    if (submodel.is_full(axis)) {
      all.push_back(kept);
      continue;
    }
    std::vector<double> scores(static_cast<std::size_t>(submodel.full_width(axis)), kAbsent);
    const auto units = submodel.units(axis);
    for (std::size_t i = 0; i < units.size(); ++i) {
      scores[static_cast<std::size_t>(units[i])] = kept[i];
    }
    all.push_back(std::move(scores));
  }
  return all;
}

UnitScores random_scores(const Model& model, Stream stream) {
  UnitScores all;
  for (const int axis : prunable_axes(model)) {
    std::vector<double> scores(
        static_cast<std::size_t>(model.layout->axes[static_cast<std::size_t>(axis)].size));
    for (double& score : scores) score = stream.uniform();
    all.push_back(std::move(scores));
  }
  return all;
}

UnitScores ranks_by_axis(UnitScores scores) {
  for (std::vector<double>& axis : scores) {
    std::vector<std::size_t> order(axis.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
      return axis[a] != axis[b] ? axis[a] < axis[b] : a > b;
    });
    for (std::size_t rank = 0; rank < order.size(); ++rank) {
      axis[order[rank]] = static_cast<double>(rank) / static_cast<double>(order.size());
    }
  }
  return scores;
}

UnitOrder::UnitOrder(const Model& model, const UnitScores& scores, double floor)
    : layout_(model.layout) {
  struct Scored {
    double score = 0;
    double position = 0;    // in the axis, from 0 to 1
    std::size_t place = 0;  // of the axis in `axes`
    std::int64_t unit = 0;
  };
  const std::vector<int> axes = prunable_axes(model);
  std::vector<Scored> all;
  std::vector<std::int64_t> removable;
  for (std::size_t place = 0; place < axes.size(); ++place) {
    const auto units = std::ssize(scores[place]);
    for (std::int64_t unit = 0; unit < units; ++unit) {
      all.push_back({scores[place][static_cast<std::size_t>(unit)],
                     static_cast<double>(unit) / static_cast<double>(units), place, unit});
    }
    const auto least = static_cast<std::int64_t>(std::ceil(floor * static_cast<double>(units)));
    removable.push_back(units - std::max<std::int64_t>(1, least));
  }
  std::ranges::sort(all, [](const Scored& a, const Scored& b) {
    if (a.score != b.score) return a.score < b.score;
    return a.position != b.position ? a.position > b.position : a.place < b.place;
  });
  for (const Scored& scored : all) {
    if (removable[scored.place]-- > 0) units_.push_back({axes[scored.place], scored.unit});
  }
}

Submodel UnitOrder::without(std::int64_t removed) const {
  ESPALIER_CHECK(removed >= 0 && removed <= size(), "{} of {} units", removed, size());
  Submodel submodel = Submodel::full(*layout_);
  std::vector<std::vector<std::uint8_t>> gone(layout_->axes.size());
  for (const Unit& unit : std::span(units_).first(static_cast<std::size_t>(removed))) {
    std::vector<std::uint8_t>& axis = gone[static_cast<std::size_t>(unit.axis)];
    if (axis.empty()) {
      axis.resize(static_cast<std::size_t>(submodel.full_width(unit.axis)), 0);
    }
    axis[static_cast<std::size_t>(unit.unit)] = 1;
  }
  for (std::size_t axis = 0; axis < gone.size(); ++axis) {
    if (gone[axis].empty()) continue;
    std::vector<std::int64_t> kept;
    for (std::size_t unit = 0; unit < gone[axis].size(); ++unit) {
      if (gone[axis][unit] == 0) kept.push_back(static_cast<std::int64_t>(unit));
    }
    submodel.keep(static_cast<int>(axis), std::move(kept));
  }
  return submodel;
}

double UnitOrder::retention(std::int64_t removed) const {
  const auto values = [&](std::int64_t units) {
    return static_cast<double>(
        BufferLayout(layout_, without(units), Packing::dense).count(Kind::trainable));
  };
  return values(removed) / values(0);
}

std::int64_t UnitOrder::removed_for(double wanted) const {
  std::int64_t least = 0;
  std::int64_t most = size();
  while (least < most) {
    const std::int64_t middle = (least + most) / 2;
    if (retention(middle) <= wanted) {
      most = middle;
    } else {
      least = middle + 1;
    }
  }
  return least;
}

std::vector<std::int64_t> UnitOrder::encode() const {
  std::vector<std::int64_t> code;
  for (const Unit& unit : units_) {
    code.push_back(unit.axis);
    code.push_back(unit.unit);
  }
  return code;
}

UnitOrder UnitOrder::decode(const Model& model, std::span<const std::int64_t> code) {
  UnitOrder order;
  order.layout_ = model.layout;
  const auto& axes = model.layout->axes;
  for (std::size_t i = 0; i + 1 < code.size(); i += 2) {
    const std::int64_t axis = code[i];
    if (axis < 0 || axis >= std::ssize(axes) || code[i + 1] < 0 ||
        code[i + 1] >= axes[static_cast<std::size_t>(axis)].size) {
      throw DataError("an order of units does not fit the model");
    }
    order.units_.push_back({static_cast<int>(axis), code[i + 1]});
  }
  return order;
}

}  // namespace espalier
