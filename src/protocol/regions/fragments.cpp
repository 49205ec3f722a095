#include "espalier/protocol/regions/fragments.h"

#include "espalier/base/error.h"

namespace espalier::regions {
namespace {

Fragment fragment_of(const std::vector<int>& blocks, const Model& model, PlanCache& plans) {
  Submodel part = Submodel::full(*model.layout);
  for (int block = 0; block < part.blocks(); ++block) part.keep_block(block, false);
  for (const int block : blocks) part.keep_block(block, true);
  Fragment fragment{blocks, plans.buffer_layout(part, Packing::dense), {}};
  const auto& entries = model.layout->entries;
  for (std::size_t entry = 0; entry < entries.size(); ++entry) {
    const BufferLayout::Place& place = fragment.layout->place(static_cast<int>(entry));
    if (!place.present || entries[entry].kind != Kind::trainable) continue;
    fragment.tensors.push_back({place.offset, place.offset + place.count});
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

}  // namespace

void declare_fragment_options(OptionTable& table) {
  table.add_choice("regions.fragments", "whole",
                   "parts of the model that are exchanged: the whole model; runs of consecutive "
                   "blocks; or strided: block b in fragment b modulo their number",
                   {"whole", "sequential", "strided"});
  table.add({"regions.fragment_count", OptionType::integer, "0",
             "number of fragments; 0 = by regions.fragment_blocks", "", 0, 1e6});
  table.add({"regions.fragment_blocks", OptionType::integer, "3",
             "blocks of a fragment, if regions.fragment_count is 0", "blocks", 1, 1e6});
}

std::vector<Fragment> make_fragments(const Config& config, const Model& model, PlanCache& plans) {
  const std::vector<int> blocks = trained_blocks(model);
  const std::string kind = config.text("regions.fragments");
  if (kind == "whole") return {fragment_of(blocks, model, plans)};
  const auto units = std::ssize(blocks);
  std::int64_t count = config.integer("regions.fragment_count");
  if (count == 0) {
    const std::int64_t size = config.integer("regions.fragment_blocks");
    count = (units + size - 1) / size;
  }
  if (count > units) {
    throw InputError(formatted(
        "regions.fragment_count = {} is more than the {} blocks of the model: set at most {}",
        count, units, units));
  }
  std::vector<std::vector<int>> parts(static_cast<std::size_t>(count));
  for (std::int64_t unit = 0; unit < units; ++unit) {
    const std::int64_t part = kind == "strided" ? unit % count : unit * count / units;
    parts[static_cast<std::size_t>(part)].push_back(blocks[static_cast<std::size_t>(unit)]);
  }
  std::vector<Fragment> fragments;
  for (const auto& part : parts) fragments.push_back(fragment_of(part, model, plans));
  return fragments;
}

}  // namespace espalier::regions
