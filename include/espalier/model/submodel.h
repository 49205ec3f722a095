#pragma once
// The part of the full model that a client trains: per axis the kept units (ascending, or the whole
// axis), per block kept or dropped. A value type: copied, compared, hashed, sent in a message
// header.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "espalier/model/layout.h"

namespace espalier {

class Submodel {
 public:
  static Submodel full(const Layout& layout);

  /// Keeps `units` (strictly ascending, within the axis, at least one) of the axis. The units of a
  /// subset axis must be among the kept units of its parent; it follows the parent while both keep
  /// the same units, and must always keep a subset of the parent's.
  void keep(int axis, std::vector<std::int64_t> units);
  void keep_block(int block, bool kept);

  bool is_full(int axis) const { return !kept(axis).cut; }
  bool is_full() const;
  std::int64_t width(int axis) const;
  std::int64_t full_width(int axis) const { return axes_[axis].size; }
  /// The kept units of a cut axis; empty for a whole axis.
  std::span<const std::int64_t> units(int axis) const { return kept(axis).units; }
  /// The places of a subset axis's kept units among its parent's kept units; empty if it follows
  /// the parent.
  std::vector<std::int64_t> positions(int axis) const;
  bool has_block(int block) const { return blocks_[block] != 0; }
  int axes() const { return static_cast<int>(axes_.size()); }
  int blocks() const { return static_cast<int>(blocks_.size()); }

  /// True if `other` has every unit and block of this submodel.
  bool inside(const Submodel& other) const;
  /// True if no width of this submodel is above that of `other`, and every block of it is in
  /// `other`: it then needs no more memory.
  bool is_no_larger(const Submodel& other) const;

  /// The smallest submodel that has every unit and block of both.
  Submodel united(const Submodel& other) const;

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
    bool cut = false;  // of a subset axis: its kept units differ from its parent's
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
