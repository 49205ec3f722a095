#pragma once
// Fragments: disjoint sets of blocks of the model, which regions exchange one at a time, so that
// the largest load on a link is a part of the model.

#include <memory>
#include <span>
#include <vector>

#include "espalier/config/config.h"
#include "espalier/model/model.h"
#include "espalier/model/plan.h"

namespace espalier::regions {

struct Fragment {
  std::vector<int> blocks;
  std::shared_ptr<const BufferLayout> layout;  ///< dense, of these blocks alone
  std::vector<Range> tensors;                  ///< of its trained values, one for each entry
  /// Of `tensors`, those of blocks other than the model's first and last (embedding, head).
  std::vector<Range> inner_tensors;
  std::int64_t values() const { return layout->count(Kind::trainable); }
};

/// Number of values of each fragment.
std::vector<std::int64_t> sizes_of(std::span<const Fragment> fragments);

/// regions.fragments, regions.fragment_count, regions.fragment_blocks.
void declare_fragment_options(OptionTable& table);
/// Every block with trained values is in one fragment. InputError if there are more fragments than
/// blocks.
std::vector<Fragment> make_fragments(const Config& config, const Model& model, PlanCache& plans);

}  // namespace espalier::regions
