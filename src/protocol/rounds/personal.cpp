#include "espalier/protocol/rounds/personal.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/entry_names.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

std::int64_t parameters_in(const Experiment& experiment, Packing packing) {
  return experiment.plans->buffer_layout(Submodel::full(*experiment.model.layout), packing)
      ->count(Kind::trainable);
}

}  // namespace

void declare_personal_options(OptionTable& table) {
  table.add({"method.personal", OptionType::text, "",
             formatted("parameters that every client keeps for itself, which are not sent and not "
                       "merged: {}; empty = none",
                       kEntryPatterns)});
}

void mark_personal(const Config& config, Experiment& experiment) {
  const std::vector<bool> named = named_entries(config, "method.personal", experiment.model);
  if (std::ranges::find(named, true) == named.end()) return;
  auto layout = std::make_shared<Layout>(*experiment.model.layout);
  for (std::size_t i = 0; i < named.size(); ++i) layout->entries[i].personal = named[i];
  experiment.model.layout = layout;
  experiment.plans = std::make_unique<PlanCache>(layout);
  if (parameters_in(experiment, Packing::shared) == 0) {
    throw InputError(
        "method.personal names every parameter of the model, so there is nothing to merge; leave "
        "out the parameters that the clients shall share");
  }
}

std::string personal_description(const Experiment& experiment) {
  const std::int64_t values = parameters_in(experiment, Packing::personal);
  if (values == 0) return {};
  std::vector<std::string> names;
  for (const Entry& entry : experiment.model.layout->entries) {
    if (entry.personal) names.push_back(entry.name);
  }
  return formatted("personal {} of {} parameters stay with each client: {}", values,
                   parameters_in(experiment, Packing::dense),
                   fmt::to_string(fmt::join(names, ", ")));
}

PersonalValues::PersonalValues(const Experiment& experiment)
    : layout_(experiment.plans->buffer_layout(Submodel::full(*experiment.model.layout),
                                              Packing::personal)),
      values_(static_cast<std::size_t>(layout_->kind_range(Kind::trainable).size())) {}

void PersonalValues::place(Parameters& parameters) const {
  if (values_.empty()) return;
  Plan(*layout_, parameters.buffer_layout(), nullptr, kTrained)
      .copy(values_.data(), parameters.data());
}

void PersonalValues::take(const Parameters& parameters) {
  if (values_.empty()) return;
  Plan(parameters.buffer_layout(), *layout_, nullptr, kTrained)
      .copy(parameters.data(), values_.data());
}

void PersonalValues::archive(Archive& archive) {
  if (!values_.empty()) archive.value("personal", std::span<float>(values_));
}

Bytes first_personal_state(const Experiment& experiment, const Parameters& model) {
  PersonalValues values(experiment);
  values.take(model);
  ByteArchive archive;
  values.archive(archive);
  return archive.take();
}

}  // namespace espalier::rounds
