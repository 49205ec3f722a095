#pragma once
// Which part of the full model a client trains: per axis the kept units (ascending; the whole axis
// is the identity), per block kept or dropped. A value type: copied, compared, hashed, sent in a
// message header.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "espalier/model/layout.h"

namespace espalier {

class Submodel {
 public:
  static Submodel full(const Layout& layout);

  /// Keeps `units` (strictly ascending, within the axis, at least one) of the axis. Of a subset
  /// axis they must be among those kept of the axis around it; it follows that axis as long as both
  /// keep the same, and afterwards must keep a subset of what that axis keeps.
  void keep(int axis, std::vector<std::int64_t> units);
  void keep_block(int block, bool kept);

  bool is_full(int axis) const { return !kept(axis).cut; }
  bool is_full() const;
  std::int64_t width(int axis) const;
  std::int64_t full_width(int axis) const { return axes_[axis].size; }
  /// The kept units of a cut axis; empty for a whole axis.
  std::span<const std::int64_t> units(int axis) const { return kept(axis).units; }
  /// Where the units of a subset axis stand among those kept of the axis around it; empty where it
  /// follows that axis.
  std::vector<std::int64_t> positions(int axis) const;
  bool has_block(int block) const { return blocks_[block] != 0; }
  int axes() const { return static_cast<int>(axes_.size()); }
  int blocks() const { return static_cast<int>(blocks_.size()); }

  /// True if every unit and block of this one is in `other` as well.
  bool inside(const Submodel& other) const;

  std::uint64_t hash() const;
  friend bool operator==(const Submodel&, const Submodel&) = default;

  /// Compact form for messages and files: runs of consecutive units.
  std::vector<std::int64_t> encode() const;
  /// The inverse of encode(). DataError if the code does not fit the layout.
  static Submodel decode(const Layout& layout, std::span<const std::int64_t> code);

 private:
  struct Cut {
    std::int64_t size = 0;
    int within = -1;
    bool cut = false;  // of a subset axis: kept units other than those of the axis around it
    std::vector<std::int64_t> units;
    friend bool operator==(const Cut&, const Cut&) = default;
  };
  const Cut& kept(int axis) const {
    const Cut& own = axes_[axis];
    return own.within < 0 || own.cut ? own : axes_[own.within];
  }
  bool has(int axis, const std::vector<std::int64_t>& units) const;
  std::vector<Cut> axes_;
  std::vector<std::uint8_t> blocks_;
};

}  // namespace espalier
