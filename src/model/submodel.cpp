#include "espalier/model/submodel.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/hash.h"

namespace espalier {

Submodel Submodel::full(const Layout& layout) {
  Submodel submodel;
  submodel.axes_.reserve(layout.axes.size());
  for (const Axis& axis : layout.axes)
    submodel.axes_.push_back({axis.size, axis.within, false, {}});
  submodel.blocks_.assign(layout.blocks.size(), 1);
  return submodel;
}

void Submodel::keep(int axis, std::vector<std::int64_t> units) {
  ESPALIER_CHECK(0 <= axis && axis < axes(), "axis {} of {}", axis, axes());
  Cut& cut = axes_[axis];
  ESPALIER_CHECK(!units.empty(), "axis {} would keep no unit", axis);
  ESPALIER_CHECK(units.front() >= 0 && units.back() < cut.size, "units {} to {} of an axis of {}",
                 units.front(), units.back(), cut.size);
  ESPALIER_CHECK(
      std::adjacent_find(units.begin(), units.end(), std::greater_equal<>()) == units.end(),
      "the units of axis {} are not strictly ascending", axis);
  ESPALIER_CHECK(cut.within < 0 || has(cut.within, units),
                 "axis {} would keep units that axis {} does not keep", axis, cut.within);
  for (const Cut& subset : axes_) {
    ESPALIER_CHECK(
        subset.within != axis || !subset.cut || std::ranges::includes(units, subset.units),
        "axis {} would lose units that a subset axis keeps", axis);
  }
  // A whole axis and a subset axis that follows its parent have no unit list, so that equal
  // submodels compare and hash equal.
  const auto count = static_cast<std::int64_t>(units.size());
  cut.cut = count < (cut.within < 0 ? cut.size : width(cut.within));
  for (Cut& subset : axes_) {
    if (subset.within == axis && subset.units.size() == units.size()) {
      subset.cut = false;
      subset.units.clear();
    }
  }
  if (!cut.cut) units.clear();
  cut.units = std::move(units);
}

bool Submodel::has(int axis, const std::vector<std::int64_t>& units) const {
  return is_full(axis) || std::ranges::includes(this->units(axis), units);
}

std::vector<std::int64_t> Submodel::positions(int axis) const {
  const Cut& cut = axes_[axis];
  ESPALIER_CHECK(cut.within >= 0, "axis {} is not a subset axis", axis);
  if (is_full(cut.within)) return cut.units;
  const auto around = units(cut.within);
  std::vector<std::int64_t> places;
  auto next = around.begin();
  for (const std::int64_t unit : cut.units) {
    next = std::lower_bound(next, around.end(), unit);
    places.push_back(next - around.begin());
  }
  return places;
}

void Submodel::keep_block(int block, bool kept) {
  ESPALIER_CHECK(0 <= block && block < blocks(), "block {} of {}", block, blocks());
  blocks_[block] = kept ? 1 : 0;
}

bool Submodel::is_full() const {
  return std::none_of(axes_.begin(), axes_.end(), [](const Cut& cut) { return cut.cut; }) &&
         std::all_of(blocks_.begin(), blocks_.end(), [](std::uint8_t kept) { return kept != 0; });
}

std::int64_t Submodel::width(int axis) const {
  const Cut& cut = kept(axis);
  return cut.cut ? static_cast<std::int64_t>(cut.units.size()) : cut.size;
}

bool Submodel::inside(const Submodel& other) const {
  ESPALIER_CHECK(axes() == other.axes() && blocks() == other.blocks(),
                 "submodels of different layouts: {} and {} axes", axes(), other.axes());
  for (int block = 0; block < blocks(); ++block)
    if (has_block(block) && !other.has_block(block)) return false;
  for (int axis = 0; axis < axes(); ++axis) {
    if (other.is_full(axis)) continue;
    if (is_full(axis) || !std::ranges::includes(other.units(axis), units(axis))) return false;
  }
  return true;
}

bool Submodel::is_no_larger(const Submodel& other) const {
  for (int axis = 0; axis < axes(); ++axis) {
    if (width(axis) > other.width(axis)) return false;
  }
  for (int block = 0; block < blocks(); ++block) {
    if (has_block(block) && !other.has_block(block)) return false;
  }
  return true;
}

Submodel Submodel::united(const Submodel& other) const {
  ESPALIER_CHECK(axes() == other.axes() && blocks() == other.blocks(),
                 "submodels of different layouts: {} and {} axes", axes(), other.axes());
  Submodel both = *this;
  for (Cut& cut : both.axes_) {
    cut.cut = false;
    cut.units.clear();
  }
  for (int axis = 0; axis < axes(); ++axis) {  // a parent comes before its subset axes
    if (is_full(axis) || other.is_full(axis)) continue;
    std::vector<std::int64_t> kept;
    std::ranges::set_union(units(axis), other.units(axis), std::back_inserter(kept));
    both.keep(axis, std::move(kept));
  }
  for (int block = 0; block < blocks(); ++block) {
    both.keep_block(block, has_block(block) || other.has_block(block));
  }
  return both;
}

std::uint64_t Submodel::hash() const {
  const std::vector<std::int64_t> code = encode();
  return hash_bytes(code.data(), code.size() * sizeof(code[0]));
}

// Per axis the number of runs (0: the whole axis, or a subset axis that follows), then first unit
// and length of each; then one number per block, 1 if kept.
std::vector<std::int64_t> Submodel::encode() const {
  std::vector<std::int64_t> code;
  for (const Cut& cut : axes_) {
    const std::size_t runs = code.size();
    code.push_back(0);
    for (std::int64_t unit : cut.units) {
      if (code[runs] > 0 && code[code.size() - 2] + code.back() == unit) {
        ++code.back();
      } else {
        ++code[runs];
        code.insert(code.end(), {unit, 1});
      }
    }
  }
  code.insert(code.end(), blocks_.begin(), blocks_.end());
  return code;
}

Submodel Submodel::decode(const Layout& layout, std::span<const std::int64_t> code) {
  const auto require = [](bool fits) {
    if (!fits)
      throw DataError(
          "a stored submodel does not fit this model: the file is damaged or belongs to a model "
          "with other "
          "sizes; use the configuration it was written with");
  };
  std::size_t at = 0;
  const auto next = [&] {
    require(at < code.size());
    return code[at++];
  };
  Submodel submodel = full(layout);
  for (int axis = 0; axis < submodel.axes(); ++axis) {
    const std::int64_t runs = next();
    if (runs == 0) continue;
    const std::int64_t size = submodel.full_width(axis);
    require(0 < runs && runs <= size);
    std::vector<std::int64_t> units;
    std::int64_t end = 0;
    for (std::int64_t run = 0; run < runs; ++run) {
      const std::int64_t first = next();
      const std::int64_t length = next();
      require(end <= first && first < size && 0 < length && length <= size - first);
      end = first + length;
      for (std::int64_t unit = first; unit < end; ++unit) units.push_back(unit);
    }
    const int around = layout.axes[axis].within;
    require(around < 0 || submodel.has(around, units));
    submodel.keep(axis, std::move(units));
  }
  for (int block = 0; block < submodel.blocks(); ++block) {
    const std::int64_t kept = next();
    require(kept == 0 || kept == 1);
    submodel.keep_block(block, kept == 1);
  }
  require(at == code.size());
  return submodel;
}

}  // namespace espalier
