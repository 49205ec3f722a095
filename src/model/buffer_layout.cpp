#include "espalier/model/buffer_layout.h"

#include <utility>

#include "espalier/base/error.h"

namespace espalier {

namespace {

bool is_packed(Packing packing, const Entry& entry) {
  switch (packing) {
    case Packing::aligned:
    case Packing::dense:
      return true;
    case Packing::shared:
      return !entry.personal && entry.kind != Kind::frozen;
    case Packing::personal:
      return entry.personal;
    case Packing::frozen:
      return entry.kind == Kind::frozen;
  }
  return false;
}

}  // namespace

std::int64_t width(const Dimension& dimension, const Submodel& submodel) {
  std::int64_t positions = 1;
  for (const Factor& factor : dimension)
    positions *= factor.axis < 0 ? factor.size : submodel.width(factor.axis);
  return positions;
}

BufferLayout::BufferLayout(std::shared_ptr<const Layout> layout, Submodel submodel, Packing packing)
    : layout_(std::move(layout)),
      submodel_(std::move(submodel)),
      packing_(packing),
      places_(layout_->entries.size()),
      segments_(layout_->blocks.size() * kKinds) {
  ESPALIER_CHECK(submodel_.axes() == static_cast<int>(layout_->axes.size()) &&
                     submodel_.blocks() == static_cast<int>(layout_->blocks.size()),
                 "the submodel is not of this layout: {} axes", submodel_.axes());
  const bool is_aligned = packing_ == Packing::aligned || packing_ == Packing::frozen;
  const std::int64_t unit = is_aligned ? kAlignmentFloats : 1;
  const int blocks = static_cast<int>(layout_->blocks.size());
  for (int kind = 0; kind < kKinds; ++kind) {
    kinds_[kind].begin = size_;
    for (int block = 0; block < blocks; ++block) {
      Range& segment = segments_[block * kKinds + kind];
      segment.begin = size_;
      for (std::size_t index = 0; index < places_.size(); ++index) {
        const Entry& entry = layout_->entries[index];
        if (static_cast<int>(entry.kind) != kind || entry.block != block) continue;
        if (!submodel_.has_block(block)) continue;
        if (!is_packed(packing_, entry)) continue;
        Place& place = places_[index];
        place.present = true;
        place.offset = size_;
        place.count = 1;
        for (const Dimension& dimension : entry.dimensions) {
          place.shape.push_back(width(dimension, submodel_));
          place.count *= place.shape.back();
        }
        size_ += (place.count + unit - 1) / unit * unit;
      }
      segment.end = size_;
    }
    kinds_[kind].end = size_;
  }
}

Range BufferLayout::segment(int block, Kind kind) const {
  return segments_[block * kKinds + static_cast<int>(kind)];
}

std::int64_t BufferLayout::count(Kind kind) const {
  std::int64_t values = 0;
  for (std::size_t index = 0; index < places_.size(); ++index)
    if (layout_->entries[index].kind == kind) values += places_[index].count;
  return values;
}

std::int64_t BufferLayout::count() const {
  std::int64_t values = 0;
  for (const Place& place : places_) values += place.count;
  return values;
}

}  // namespace espalier
