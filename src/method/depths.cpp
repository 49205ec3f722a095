#include "espalier/method/depths.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"
#include "espalier/base/log.h"

namespace espalier::rounds {

void declare_depth_options(OptionTable& table) {
  declare_width_options(table);
  table.add({"method.depth_power", OptionType::real, "1",
             "power in the fraction r^power of the blocks that a client of level r holds; 0 = all "
             "blocks",
             "", 0, 10});
  table.add({"method.rotate_depth", OptionType::boolean, "true",
             "if no client has the whole depth, move the held blocks by one classifier with each "
             "version"});
}

DepthLevels::DepthLevels(const RuleContext& context, bool searches)
    : model_(context.experiment.model),
      power_(context.config.real("method.depth_power")),
      levels_(context, [&](double width) {
        return Assignment{cut(width, 0), width, searches && width < 1 ? width : 0};
      }) {
  rotates_ = context.config.boolean("method.rotate_depth") && depth_fraction(levels_.largest()) < 1;
  if (rotates_ && model_.exits.size() > 1 && !model_.depth_keeps_shape) {
    throw InputError(formatted(
        "no client holds the whole depth, and the blocks of model.name = {} change the shape of "
        "their inputs, so leading blocks cannot be left out: give a client the width 1 "
        "(method.widths), or set method.rotate_depth = false, so that the last blocks are not "
        "trained",
        model_.name));
  }
  if (model_.depth.empty()) {
    log_warning(
        formatted("model.name = {} with model.exits = {} has no blocks that a cut in depth can "
                  "drop, so every client holds all blocks; set model.exits to 2 or more (cnn, "
                  "cnn1d, vit, encoder, lstm)",
                  model_.name, model_.exits.size()));
  }
}

double DepthLevels::depth_fraction(double width) const { return std::pow(width, power_); }

Submodel DepthLevels::cut(double width, std::int64_t version) const {
  const auto depth = static_cast<double>(model_.depth.size());
  // A fraction such as 1/3 of 3 blocks must not become 0 because its product is rounded below 1.
  auto kept = static_cast<std::int64_t>(std::floor(depth_fraction(width) * depth + 1e-9));
  // At least as far as the first classifier, or one block.
  const std::int64_t least = model_.exits.size() > 1
                                 ? model_.exits.front().depth
                                 : std::min<std::int64_t>(1, std::ssize(model_.depth));
  kept = std::max(kept, least);
  return rotates_ ? rolling_depth(model_, kept, version) : cut_depth(model_, kept);
}

}  // namespace espalier::rounds
