#pragma once
// A small layout with every feature that slicing has to handle, and a slow, independent way to cut
// it.

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "espalier/base/random.h"
#include "espalier/model/buffer_layout.h"
#include "purpose.h"

namespace espalier::testing {

enum TestAxis { kInput, kChannels, kHidden, kHeads, kColumns, kEmbed, kClasses, kRows };

inline std::shared_ptr<const Layout> make_layout() {
  Layout l;
  l.add_axis("input", 2, false);
  l.add_axis("channels", 6);
  l.add_axis("hidden", 9);
  l.add_axis("heads", 4);
  l.add_axis("columns", 3);
  l.add_axis("embed", 10);
  l.add_axis("classes", 5, false);
  l.add_subset_axis("rows", kEmbed);
  const int stem = l.add_block("stem");
  const int middle = l.add_block("middle");
  const int head = l.add_block("head");
  const Dimension qkv{{-1, 3}, {kHeads, 1}, {kColumns, 1}};
  const Dimension pairs{{kHidden, 1}, {-1, 2}, {kHidden, 1}};
  const Init normal{Init::Rule::normal, 0.5};
  const auto c = &Layout::constant;
  // Statistics and frozen entries are between trainable entries on purpose: packing orders by kind.
  l.add_entry({"conv.weight",
               Kind::trainable,
               stem,
               {l.along(kChannels), l.along(kInput), c(3), c(3)},
               normal});
  l.add_entry({"norm.mean", Kind::statistic, stem, {l.along(kChannels)}, {Init::Rule::ones, 0}});
  l.add_entry(
      {"conv.bias", Kind::trainable, stem, {l.along(kChannels)}, {Init::Rule::uniform, 0.25}});
  l.add_entry(
      {"fc.weight", Kind::trainable, head, {l.along(kHidden), l.along(kChannels, 4)}, normal});
  l.add_entry({"qkv.weight", Kind::trainable, middle, {qkv, l.along(kEmbed)}, normal});
  l.add_entry(
      {"out.weight", Kind::frozen, middle, {l.along(kRows), {{kHeads, 1}, {kColumns, 1}}}, normal});
  l.add_entry({"square", Kind::trainable, head, {l.along(kHidden), l.along(kHidden)}, normal});
  l.add_entry({"pairs", Kind::frozen, head, {pairs}, normal});
  l.add_entry({"scale", Kind::trainable, head, {}, {Init::Rule::ones, 0}});
  l.add_entry(
      {"head.weight", Kind::trainable, head, {l.along(kClasses), l.along(kHidden)}, normal});
  l.add_entry({"head.bias", Kind::trainable, head, {l.along(kClasses)}, {}});
  return std::make_shared<const Layout>(l);
}

inline std::vector<std::int64_t> window(std::int64_t start, std::int64_t count, std::int64_t size) {
  std::vector<std::int64_t> units;
  for (std::int64_t unit = 0; unit < size; ++unit)
    if ((unit - start % size + size) % size < count) units.push_back(unit);
  return units;
}

/// Cuts every cuttable axis to a window of a `fraction` that starts at `start` and wraps around.
inline Submodel rolling(const Layout& layout, double fraction, std::int64_t start) {
  Submodel submodel = Submodel::full(layout);
  for (int axis = 0; axis < submodel.axes(); ++axis) {
    const std::int64_t size = layout.axes[axis].size;
    if (!layout.axes[axis].cuttable) continue;
    const auto count =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(fraction * static_cast<double>(size)));
    submodel.keep(axis, window(start, count, size));
  }
  return submodel;
}

/// Random widths, units and blocks.
inline Submodel random_submodel(const Layout& layout, std::uint64_t seed, bool drop_blocks = true) {
  Stream stream(seed, kTest);
  Submodel submodel = Submodel::full(layout);
  for (int axis = 0; axis < submodel.axes(); ++axis) {
    const std::int64_t size = layout.axes[axis].size;
    if (layout.axes[axis].cuttable && stream.below(5) != 0)
      submodel.keep(axis, stream.choose(1 + stream.below(size), size));
    const int around = layout.axes[axis].within;
    if (around < 0 || stream.below(3) == 0) continue;
    // Some of the kept positions of the parent.
    const std::int64_t width = submodel.width(around);
    std::vector<std::int64_t> units = stream.choose(1 + stream.below(width), width);
    if (!submodel.is_full(around))
      for (std::int64_t& unit : units) unit = submodel.units(around)[unit];
    submodel.keep(axis, units);
  }
  for (int block = 0; drop_blocks && block < submodel.blocks(); ++block)
    submodel.keep_block(block, stream.below(3) != 0);
  return submodel;
}

inline std::vector<Submodel> selections(const Layout& layout) {
  std::vector<Submodel> all{Submodel::full(layout),  rolling(layout, 0.5, 0),
                            rolling(layout, 0.5, 4), rolling(layout, 0.5, 8),
                            rolling(layout, 0, 0),   rolling(layout, 0, 7)};
  for (std::uint64_t seed = 0; seed < 12; ++seed) all.push_back(random_submodel(layout, seed));
  return all;
}

/// Positions along the full dimension that the submodel keeps: each position is split into its
/// factors' digits and kept if every digit is kept.
inline at::Tensor kept_positions(const Layout& layout, const Dimension& dimension,
                                 const Submodel& submodel) {
  std::int64_t size = 1;
  for (const Factor& f : dimension) size *= f.axis < 0 ? f.size : layout.axes[f.axis].size;
  std::vector<std::int64_t> kept;
  for (std::int64_t position = 0; position < size; ++position) {
    bool keep = true;
    std::int64_t rest = position;
    for (auto f = dimension.rbegin(); f != dimension.rend(); ++f) {
      const std::int64_t width = f->axis < 0 ? f->size : layout.axes[f->axis].size;
      const std::int64_t digit = rest % width;
      rest /= width;
      if (f->axis < 0 || submodel.is_full(f->axis)) continue;
      bool found = false;
      for (std::int64_t unit : submodel.units(f->axis)) found = found || unit == digit;
      keep = keep && found;
    }
    if (keep) kept.push_back(position);
  }
  return at::tensor(kept, at::kLong);
}

/// The entry of a submodel, cut from the full entry by at::index_select.
inline at::Tensor cut(const Layout& layout, int entry, const at::Tensor& full,
                      const Submodel& submodel) {
  at::Tensor part = full;
  const auto& dimensions = layout.entries[entry].dimensions;
  for (std::size_t d = 0; d < dimensions.size(); ++d)
    part = part.index_select(static_cast<std::int64_t>(d),
                             kept_positions(layout, dimensions[d], submodel));
  return part.contiguous();
}

/// For each float of the buffer layout's buffer its offset in the full model's buffer; -1: padding.
inline std::vector<std::int64_t> full_offsets(const BufferLayout& full, const BufferLayout& part) {
  std::vector<std::int64_t> offsets(part.size(), -1);
  for (std::size_t index = 0; index < part.layout().entries.size(); ++index) {
    const int entry = static_cast<int>(index);
    if (!part.place(entry).present) continue;
    const BufferLayout::Place& place = full.place(entry);
    const at::Tensor ids =
        at::arange(place.offset, place.offset + place.count, at::kLong).view(place.shape);
    const at::Tensor kept = cut(part.layout(), entry, ids, part.submodel());
    const std::int64_t* id = kept.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < kept.numel(); ++i) offsets[part.place(entry).offset + i] = id[i];
  }
  return offsets;
}

}  // namespace espalier::testing
