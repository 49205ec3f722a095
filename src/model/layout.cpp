#include "espalier/model/layout.h"

#include <utility>

#include "espalier/base/error.h"

namespace espalier {

int Layout::add_axis(std::string name, std::int64_t size, bool cuttable) {
  ESPALIER_CHECK(size > 0, "axis '{}' has size {}", name, size);
  axes.push_back({std::move(name), size, cuttable, -1});
  return static_cast<int>(axes.size()) - 1;
}

int Layout::add_subset_axis(std::string name, int parent) {
  ESPALIER_CHECK(0 <= parent && parent < static_cast<int>(axes.size()) && axes[parent].within < 0,
                 "axis '{}' has axis {} as its parent", name, parent);
  const std::int64_t size = axes[parent].size;
  axes.push_back({std::move(name), size, false, parent});
  return static_cast<int>(axes.size()) - 1;
}

int Layout::add_entry(Entry entry) {
  ESPALIER_CHECK(0 <= entry.block && entry.block < static_cast<int>(blocks.size()),
                 "entry '{}' names block {} of {}", entry.name, entry.block, blocks.size());
  for (const Entry& other : entries)
    ESPALIER_CHECK(other.name != entry.name, "two entries are called '{}'", entry.name);
  for (const Dimension& dimension : entry.dimensions)
    for (const Factor& factor : dimension)
      ESPALIER_CHECK(
          factor.axis < static_cast<int>(axes.size()) && (factor.axis >= 0 || factor.size > 0),
          "entry '{}' has a factor of axis {} and size {}", entry.name, factor.axis, factor.size);
  entries.push_back(std::move(entry));
  return static_cast<int>(entries.size()) - 1;
}

int Layout::add_block(std::string name) {
  blocks.push_back(std::move(name));
  return static_cast<int>(blocks.size()) - 1;
}

Dimension Layout::along(int axis, std::int64_t positions) const {
  ESPALIER_CHECK(0 <= axis && axis < static_cast<int>(axes.size()), "axis {} of {}", axis,
                 axes.size());
  Dimension dimension{{axis, 1}};
  if (positions != 1) dimension.push_back({-1, positions});
  return dimension;
}

Dimension Layout::constant(std::int64_t size) { return {{-1, size}}; }

}  // namespace espalier
