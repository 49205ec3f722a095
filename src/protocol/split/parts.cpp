#include "espalier/protocol/split/parts.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/config/choice.h"
#include "espalier/train/penalty.h"

namespace espalier::split {
namespace {

constexpr const char* kExchanges[] = {"features", "models"};
constexpr const char* kSteps[] = {"merged", "in_turn", "accumulated", "copies", "mixup"};

/// The number of bottom blocks that the text means: a number, the name of the top's first block, or
/// `middle`.
int cut_of(const Model& model, const std::string& text) {
  const auto& names = model.layout->blocks;
  const auto blocks = static_cast<std::int64_t>(names.size());
  std::int64_t cut = -1;
  if (text == "middle") cut = std::max<std::int64_t>(1, blocks / 2);
  if (const auto number = parse_integer(text)) cut = *number;
  if (cut < 0) cut = std::ranges::find(names, text) - names.begin();
  if (cut >= 1 && cut < blocks) return static_cast<int>(cut);
  std::string known;
  for (std::int64_t i = 1; i < blocks; ++i) {
    known += (known.empty() ? "" : ", ") + names[static_cast<std::size_t>(i)];
  }
  throw InputError(formatted(
      "split.cut = {} does not cut {} in two: set middle, a number of bottom blocks from 1 "
      "to {}, or the first block of the top ({})",
      text, model.name, blocks - 1, known));
}

bool has_class_weights(const Model& model, int first) {
  return std::ranges::any_of(model.layout->entries, [&](const Entry& entry) {
    return entry.block >= first &&
           std::ranges::any_of(entry.dimensions, [&](const Dimension& dimension) {
             return std::ranges::any_of(
                 dimension, [&](const Factor& factor) { return factor.axis == model.class_axis; });
           });
  });
}

void refuse_uncuttable(const Model& model, int cut) {
  if (model.shape.masked > 0) {
    throw InputError(
        "data.mask_rate does not work with a split model, whose top does not know which tokens "
        "are hidden: set it to 0");
  }
  if (!has_class_weights(model, cut)) {
    throw InputError(formatted(
        "the last block of {} uses weights of its first block, so the two cannot be on two "
        "devices: set model.tied = false",
        model.name));
  }
  if (model.is_ensemble) {
    throw InputError(
        "model.members makes networks side by side, which cannot be cut in two: set model.members "
        "= 1");
  }
  for (const Exit& exit : model.exits) {
    if (exit.block >= cut) continue;
    throw InputError(
        "model.exits puts a classifier into the bottom, where nothing trains it: set model.exits = "
        "1, or a smaller split.cut");
  }
}

void refuse_unsuited(const TrainSettings& train) {
  if (has_penalty(train)) {
    throw InputError(
        "train.group_lasso and train.scale_l1 are for methods that train whole models: leave them "
        "out");
  }
  if (train.accumulate > 1) {
    throw InputError(
        "train.accumulate does not work with a split model, whose features are sent in one "
        "message: "
        "set train.accumulate = 1 and a smaller train.batch");
  }
}

/// InputError if one of these options was given a value of its own, which nothing would read.
void refuse_given(const Config& config, std::initializer_list<const char*> keys,
                  const char* reason) {
  const std::vector<std::string> unread = config.unread();
  for (const char* key : keys) {
    if (std::ranges::find(unread, key) == unread.end()) continue;
    throw InputError(formatted("{} {}: leave it out, or give its default", key, reason));
  }
}

Parts whole_models(const Config& config, const Experiment& experiment) {
  refuse_given(
      config, {"split.cut", "split.top", "split.turns", "split.mixup_alpha", "split.last_batch"},
      "has no meaning with split.exchange = models, where workers train the whole model on all "
      "samples");
  const Submodel full = Submodel::full(*experiment.model.layout);
  return {.exchange = Exchange::models,
          .cut = static_cast<int>(experiment.model.blocks.size()),
          .bottom = full,
          .top = full,
          .local_steps = config.integer("split.local_steps")};
}

}  // namespace

void declare_part_options(OptionTable& table) {
  table.add_choice("split.exchange", "features",
                   "what workers send to their host in every iteration: the features of a batch, "
                   "with the model cut in two; or models, which each trains as a whole and of "
                   "which the host returns the mean",
                   {std::begin(kExchanges), std::end(kExchanges)});
  table.add({"split.local_steps", OptionType::integer, "1",
             "split.exchange = models: batches of each worker in an iteration", "", 1, 1e6});
  table.add({"split.cut", OptionType::text, "middle",
             "split.exchange = features: block boundary at which the model is cut: the number of "
             "bottom blocks, the name of "
             "the top's first block, or middle"});
  table.add_choice(
      "split.top", "merged",
      "what the top does with the features of its workers' batches: one step on all of "
      "them as one batch; one step for each worker, one after the other; one step on all, whose "
      "gradient is summed batch by batch as they arrive; the mean of copies, of which each makes a "
      "step for one worker; or merged with mixtures of two workers' features",
      {std::begin(kSteps), std::end(kSteps)});
  table.add_choice("split.turns", "random",
                   "split.top = in_turn: order of the workers: random, another one in each "
                   "iteration; or by client",
                   {"random", "by_client"});
  table.add(
      {"split.mixup_alpha", OptionType::real, "1",
       "split.top = mixup: parameter of the Beta distribution from which the shares of the two "
       "workers are drawn",
       "", 0.1, 1e3});
  table.add_choice("split.last_batch", "keep",
                   "samples at the end of an epoch that do not fill a batch: a smaller batch, or "
                   "left out",
                   {"keep", "drop"});
}

Parts make_parts(const Config& config, const Experiment& experiment) {
  if (choice<Exchange>(config, "split.exchange", kExchanges) == Exchange::models) {
    return whole_models(config, experiment);
  }
  refuse_given(config, {"split.local_steps"}, "is for split.exchange = models");
  const Model& model = experiment.model;
  const auto blocks = static_cast<int>(model.blocks.size());
  const Submodel full = Submodel::full(*model.layout);
  const int cut = cut_of(model, config.text("split.cut"));
  refuse_uncuttable(model, cut);
  refuse_unsuited(experiment.train);
  Parts parts{.cut = cut,
              .bottom = part_of(model, full, 0, cut),
              .top = part_of(model, full, cut, blocks),
              .step = choice<TopStep>(config, "split.top", kSteps),
              .drops_last = config.text("split.last_batch") == "drop"};
  if (parts.step == TopStep::in_turn) parts.random_turns = config.text("split.turns") == "random";
  if (parts.step == TopStep::mixup) parts.mixup_alpha = config.real("split.mixup_alpha");
  return parts;
}

}  // namespace espalier::split
