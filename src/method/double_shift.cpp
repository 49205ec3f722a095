#include "espalier/method/double_shift.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "espalier/base/error.h"

namespace espalier::rounds {

std::int64_t round_offset(LayerShift shift, int side, std::int64_t h, std::int64_t w,
                          std::int64_t r) {
  ESPALIER_CHECK(shift != LayerShift::random, "random offsets are drawn");
  if (shift == LayerShift::equal || side == 0) return r % h;
  const std::int64_t q = 2 * ((h + 2 * w - 1) / (2 * w)) + 1;
  return (q * (r % h) + w * (r / h % h)) % h;
}

std::int64_t participant_shift(std::int64_t w, double c) {
  // (1 - 28 / 32) 32 must not become 3 because the product is a little below 4.
  const double exact = (1 - c) * static_cast<double>(w);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(exact + 1e-9)));
}

double largest_overlap(std::int64_t h, std::span<const std::int64_t> widths) {
  const auto covers = [&](double c) {
    std::int64_t end = widths.back();
    for (const std::int64_t w : widths.first(widths.size() - 1)) end += participant_shift(w, c);
    return end >= h;
  };
  if (!covers(0)) return 0;
  double overlap = 0, beyond = 1;
  if (covers(beyond)) return beyond;  // single units apart
  constexpr int kHalvings = 40;       // to 1e-12, far below the 1e-9 of participant_shift()
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (overlap + beyond) / 2;
    (covers(middle) ? overlap : beyond) = middle;
  }
  return overlap;
}

namespace {

/// Sets of axes, each with a side relative to the set's root.
class Sides {
 public:
  explicit Sides(std::size_t axes) : parent_(axes), side_(axes, 0) {
    std::iota(parent_.begin(), parent_.end(), 0);
  }
  /// The root of the axis's set, and its side.
  std::pair<int, int> find(int axis) const {
    int side = 0;
    while (parent_[static_cast<std::size_t>(axis)] != axis) {
      side ^= side_[static_cast<std::size_t>(axis)];
      axis = parent_[static_cast<std::size_t>(axis)];
    }
    return {axis, side};
  }
  /// Gives a and b different sides, unless both have their place already.
  void separate(int a, int b) {
    const auto [root_a, own_a] = find(a);
    const auto [root_b, own_b] = find(b);
    if (root_a == root_b) return;
    parent_[static_cast<std::size_t>(root_b)] = root_a;
    side_[static_cast<std::size_t>(root_b)] = own_a ^ own_b ^ 1;
  }

 private:
  std::vector<int> parent_;
  std::vector<int> side_;  // relative to the parent
};

}  // namespace

std::vector<int> layer_sides(const Layout& layout) {
  std::map<std::pair<int, int>, std::int64_t> values;  // of the entries that two axes share
  for (const Entry& entry : layout.entries) {
    std::vector<int> axes;
    std::int64_t count = 1;
    for (const Dimension& dimension : entry.dimensions) {
      for (const Factor& factor : dimension) {
        const auto axis = static_cast<std::size_t>(factor.axis);
        count *= factor.axis < 0 ? factor.size : layout.axes[axis].size;
        if (factor.axis >= 0 && layout.axes[axis].cuttable) axes.push_back(factor.axis);
      }
    }
    for (std::size_t i = 0; i < axes.size(); ++i) {
      for (std::size_t j = i + 1; j < axes.size(); ++j) {
        if (axes[i] != axes[j]) values[std::minmax(axes[i], axes[j])] += count;
      }
    }
  }
  std::vector<std::tuple<std::int64_t, int, int>> edges;  // most values first
  for (const auto& [pair, count] : values) edges.emplace_back(-count, pair.first, pair.second);
  std::ranges::sort(edges);
  Sides sides(layout.axes.size());
  for (const auto& [count, a, b] : edges) sides.separate(a, b);
  std::vector<int> result(layout.axes.size(), 0);
  std::map<int, int> first;  // side of the first axis, by root
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (!layout.axes[axis].cuttable) continue;
    const auto [root, side] = sides.find(static_cast<int>(axis));
    result[axis] = side ^ first.try_emplace(root, side).first->second;
  }
  return result;
}

double overlap_at(OverlapSchedule schedule, double start, double end, double r, double r_end,
                  double fallen) {
  const double last = std::min(start, end);
  const double left = r_end > 0 ? std::max(0.0, 1 - r / r_end) : 0.0;
  switch (schedule) {
    case OverlapSchedule::constant:
      return start;
    case OverlapSchedule::down:
      return last + (start - last) * left;
    case OverlapSchedule::up:
      return last + (start - last) * (1 - left);
    case OverlapSchedule::plateau:
      return std::max(last, start - fallen);
  }
  return start;
}

}  // namespace espalier::rounds
