#include "espalier/protocol/regions/fragments.h"

#include <algorithm>
#include <functional>

#include "espalier/base/error.h"
#include "espalier/model/cost.h"

namespace espalier::regions {
namespace {

/// `trained`: all blocks with trained values, in order.
Fragment fragment_of(const std::vector<int>& blocks, const std::vector<int>& trained,
                     const Model& model, PlanCache& plans) {
  Submodel part = Submodel::full(*model.layout);
  for (int block = 0; block < part.blocks(); ++block) part.keep_block(block, false);
  for (const int block : blocks) part.keep_block(block, true);
  Fragment fragment{blocks, plans.buffer_layout(part, Packing::dense), {}, {}};
  const auto& entries = model.layout->entries;
  for (std::size_t entry = 0; entry < entries.size(); ++entry) {
    const BufferLayout::Place& place = fragment.layout->place(static_cast<int>(entry));
    if (!place.present || entries[entry].kind != Kind::trainable) continue;
    fragment.tensors.push_back({place.offset, place.offset + place.count});
    const int block = entries[entry].block;
    if (block != trained.front() && block != trained.back()) {
      fragment.inner_tensors.push_back(fragment.tensors.back());
    }
  }
  return fragment;
}

/// The blocks with trained values, in order of execution.
std::vector<int> trained_blocks(const Model& model) {
  std::vector<int> blocks;
  for (std::size_t block = 0; block < model.layout->blocks.size(); ++block) {
    const bool trains = std::ranges::any_of(model.layout->entries, [&](const Entry& entry) {
      return entry.kind == Kind::trainable && entry.block == static_cast<int>(block);
    });
    if (trains) blocks.push_back(static_cast<int>(block));
  }
  return blocks;
}

using Parts = std::vector<std::vector<int>>;  // blocks of each fragment

Parts dealt(const std::vector<int>& blocks, std::int64_t count, const std::string& kind) {
  Parts parts(static_cast<std::size_t>(count));
  const auto units = std::ssize(blocks);
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int64_t part = kind == "strided" ? unit % count : unit * count / units;
    parts[static_cast<std::size_t>(part)].push_back(blocks[static_cast<std::size_t>(unit)]);
  }
  return parts;
}

/// The first and the last block, then all others: the largest block goes into the smallest
/// fragment.
Parts balanced(const std::vector<int>& blocks, std::int64_t count, const Model& model) {
  const TrainingCost cost = training_cost(model, Submodel::full(*model.layout), 1, 0);
  const auto size = [&](int block) {
    return std::ranges::find(cost.blocks, block, &BlockCost::block)->parameters;
  };
  std::vector<int> inner(blocks.begin() + 1, blocks.end() - 1);
  std::ranges::stable_sort(inner, std::greater(), size);
  Parts parts(static_cast<std::size_t>(count));
  parts[0] = {blocks.front(), blocks.back()};
  std::vector<std::int64_t> filled(parts.size(), 0);
  for (const int block : inner) {
    const auto smallest = std::min_element(filled.begin() + 1, filled.end());
    *smallest += size(block);
    parts[static_cast<std::size_t>(smallest - filled.begin())].push_back(block);
  }
  for (auto& part : parts) std::ranges::sort(part);
  return parts;
}

}  // namespace

std::vector<std::int64_t> sizes_of(std::span<const Fragment> fragments) {
  std::vector<std::int64_t> sizes;
  for (const Fragment& fragment : fragments) sizes.push_back(fragment.values());
  return sizes;
}

void declare_fragment_options(OptionTable& table) {
  table.add_choice("regions.fragments", "whole",
                   "parts of the model that are exchanged: the whole model; runs of consecutive "
                   "blocks; strided: block b in fragment b modulo their number; or balanced: the "
                   "first and the last block in fragment 0, the others by size",
                   {"whole", "sequential", "strided", "balanced"});
  table.add({"regions.fragment_count", OptionType::integer, "0",
             "number of fragments; 0 = by regions.fragment_blocks", "", 0, 1e6});
  table.add({"regions.fragment_blocks", OptionType::integer, "3",
             "blocks of a fragment, if regions.fragment_count is 0", "blocks", 1, 1e6});
}

std::vector<Fragment> make_fragments(const Config& config, const Model& model, PlanCache& plans) {
  const std::vector<int> blocks = trained_blocks(model);
  const std::string kind = config.text("regions.fragments");
  if (kind == "whole") return {fragment_of(blocks, blocks, model, plans)};
  const auto units = std::ssize(blocks);
  std::int64_t count = config.integer("regions.fragment_count");
  if (count == 0) {
    const std::int64_t size = config.integer("regions.fragment_blocks");
    count = kind == "balanced" ? 1 + (units - 2 + size - 1) / size : (units + size - 1) / size;
  }
  if (count > units) {
    throw InputError(formatted(
        "regions.fragment_count = {} is more than the {} blocks of the model: set at most {}",
        count, units, units));
  }
  if (kind == "balanced" && (count < 2 || units < 3 || count > units - 1)) {
    throw InputError(formatted(
        "regions.fragments = balanced makes one fragment of the first and the last block, and "
        "others of the {} blocks between: set regions.fragment_count to 2 or more, at most {}",
        std::max<std::int64_t>(0, units - 2), units - 1));
  }
  const auto parts =
      kind == "balanced" ? balanced(blocks, count, model) : dealt(blocks, count, kind);
  std::vector<Fragment> fragments;
  for (const auto& part : parts) fragments.push_back(fragment_of(part, blocks, model, plans));
  return fragments;
}

}  // namespace espalier::regions
