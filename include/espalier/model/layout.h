#pragma once
// The description of a full model: axes (widths that can be cut), entries (parameters whose
// dimensions are ordered products of axes and constants) and blocks. Slicing needs only this, so it
// is written once.

#include <cstdint>
#include <string>
#include <vector>

namespace espalier {

/// Kind of an entry: trained and sent; a statistic (norm calibration); frozen, which never changes.
enum class Kind : std::uint8_t { trainable, statistic, frozen };
inline constexpr int kKinds = 3;

/// A width in units: channels, hidden neurons, heads, columns within a head, classes.
struct Axis {
  std::string name;
  std::int64_t size = 0;
  /// Whether rules that keep a fraction of every width cut it. False: input channels and classes,
  /// which no rule cuts; heads and subset axes, which only rules cut that name them
  /// (Model::transformer).
  bool cuttable = true;
  /// The parent of a subset axis, whose units are positions of the parent: a submodel keeps a
  /// subset of the parent's kept units (all of them, unless a rule cuts it). -1: not a subset axis.
  int within = -1;
};

/// One factor of a dimension; axis < 0 is a constant of `size` positions.
struct Factor {
  int axis = -1;
  std::int64_t size = 1;
};
/// Outermost factor first: {channels, 16 positions} for a flattened 4x4 feature map.
using Dimension = std::vector<Factor>;

/// Rule for the first values of an entry (streams keyed by entry name, over the full model).
struct Init {
  enum class Rule { zeros, ones, uniform, normal };
  Rule rule = Rule::zeros;
  double scale = 0;  ///< uniform: in [-scale, scale); normal: standard deviation
};

struct Entry {
  std::string name;  ///< customary PyTorch name, e.g. "conv1.weight"
  Kind kind = Kind::trainable;
  int block = 0;
  std::vector<Dimension> dimensions;
  Init init;
  /// Only products and look-ups read it; they write its gradient themselves (operations.h).
  bool product = false;
  /// Trained by each client for itself: in no message.
  bool personal = false;
  /// A factor of an adapter.
  bool adapter = false;
};

/// The low-rank factors beside a linear layer's weight (adapter.h).
struct Adapter {
  int weight = -1;   ///< entry W [out, in]
  int down = -1;     ///< entry A [rank, in]
  int up = -1;       ///< entry B [out, rank]
  int rank = -1;     ///< axis
  double scale = 1;  ///< of B A, whatever ranks a submodel keeps
};

/// The linear layers that get adapters.
struct AdapterChoice {
  std::int64_t rank = 0;  ///< 0: none
  double scale = 1;
  std::vector<std::string> modules;  ///< patterns of their names
  std::vector<std::string> layers;   ///< names of all linear layers so far
};

struct Layout {
  std::vector<Axis> axes;
  std::vector<Entry> entries;
  std::vector<std::string> blocks;  ///< names, in order of execution
  std::vector<Adapter> adapters;
  AdapterChoice adapter_choice;

  int add_axis(std::string name, std::int64_t size, bool cuttable = true);
  /// An axis whose units are positions of `parent`, which must not be a subset axis: the rows of a
  /// layer whose output is added into a residual stream at chosen positions.
  int add_subset_axis(std::string name, int parent);
  int add_entry(Entry entry);
  int add_block(std::string name);
  /// A dimension of one axis (times `positions` constant places inside each unit).
  Dimension along(int axis, std::int64_t positions = 1) const;
  static Dimension constant(std::int64_t size);
};

}  // namespace espalier
