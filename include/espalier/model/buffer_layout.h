#pragma once
// The places of a submodel's entries in one flat buffer. `aligned` is for training (every entry
// starts at a multiple of 64 bytes, so that tensors are views with fast kernels), `dense` for files
// and messages; `shared` is dense without the personal and the frozen entries, `personal` only the
// personal ones, `frozen` only the frozen ones, aligned. Segments are ordered by kind, then block:
// the trained entries are one contiguous range, and the frozen ones are the last.

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "espalier/model/layout.h"
#include "espalier/model/submodel.h"

namespace espalier {

/// Every entry of an aligned buffer layout starts at a multiple of these floats (64 bytes).
inline constexpr std::int64_t kAlignmentFloats = 16;

enum class Packing { aligned, dense, shared, personal, frozen };

/// A half-open range of floats in a buffer.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  friend bool operator==(const Range&, const Range&) = default;
};

/// Positions along a dimension in a submodel: the product of kept widths and constants.
std::int64_t width(const Dimension& dimension, const Submodel& submodel);

class BufferLayout {
 public:
  struct Place {
    bool present = false;
    std::int64_t offset = 0;  ///< floats from the buffer's start
    std::int64_t count = 0;   ///< floats, without padding
    std::vector<std::int64_t> shape;
  };

  BufferLayout(std::shared_ptr<const Layout> layout, Submodel submodel, Packing packing);

  const Layout& layout() const { return *layout_; }
  std::shared_ptr<const Layout> layout_ptr() const { return layout_; }
  const Submodel& submodel() const { return submodel_; }
  Packing packing() const { return packing_; }
  const Place& place(int entry) const { return places_[entry]; }
  /// All entries of a kind, padding included. Padding floats are always zero in every buffer.
  Range kind_range(Kind kind) const { return kinds_[static_cast<int>(kind)]; }
  /// The entries of one block and kind, padding included; empty if there are none.
  Range segment(int block, Kind kind) const;
  /// Floats in the buffer, padding included.
  std::int64_t size() const { return size_; }
  /// Of these, those before the frozen entries.
  std::int64_t size_without_frozen() const { return kind_range(Kind::frozen).begin; }
  /// Values without padding: of a kind, of all kinds.
  std::int64_t count(Kind kind) const;
  std::int64_t count() const;

 private:
  std::shared_ptr<const Layout> layout_;
  Submodel submodel_;
  Packing packing_;
  std::vector<Place> places_;
  std::array<Range, kKinds> kinds_{};
  std::vector<Range> segments_;  // block * kKinds + kind
  std::int64_t size_ = 0;
};

}  // namespace espalier
