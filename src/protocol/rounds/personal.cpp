#include "espalier/protocol/rounds/personal.h"

#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

constexpr const char* kNorms = "norms";

std::vector<std::string> personal_patterns(const Config& config) {
  std::vector<std::string> list;
  const std::string text = config.text("method.personal");
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view item = trimmed(rest.substr(0, comma));
    if (!item.empty()) list.emplace_back(item);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return list;
}

bool fits_pattern(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

/// Names of the norms: only their weights begin at one.
std::set<std::string> names_of_norms(const Layout& layout) {
  std::set<std::string> names;
  for (const Entry& entry : layout.entries) {
    if (entry.kind == Kind::trainable && entry.init.rule == Init::Rule::ones) {
      names.insert(entry.name.substr(0, entry.name.rfind('.')));
    }
  }
  return names;
}

std::int64_t parameters_in(const Experiment& experiment, Packing packing) {
  return experiment.plans->buffer_layout(Submodel::full(*experiment.model.layout), packing)
      ->count(Kind::trainable);
}

}  // namespace

void declare_personal_options(OptionTable& table) {
  table.add({"method.personal", OptionType::text, "",
             "parameters that every client keeps for itself, which are not sent and not merged: "
             "names of blocks or parameters, with * and ?, separated by commas; norms = those of "
             "all norms; empty = none"});
}

void mark_personal(const Config& config, Experiment& experiment) {
  const std::vector<std::string> wanted = personal_patterns(config);
  if (wanted.empty()) return;
  auto layout = std::make_shared<Layout>(*experiment.model.layout);
  const std::set<std::string> norm_names = names_of_norms(*layout);
  for (const std::string& pattern : wanted) {
    bool found = false;
    for (Entry& entry : layout->entries) {
      if (entry.kind != Kind::trainable) continue;
      const bool is_norm =
          pattern == kNorms && norm_names.contains(entry.name.substr(0, entry.name.rfind('.')));
      if (!is_norm && !fits_pattern(pattern, entry.name) &&
          !fits_pattern(pattern, layout->blocks[static_cast<std::size_t>(entry.block)])) {
        continue;
      }
      entry.personal = found = true;
    }
    if (found) continue;
    if (pattern == kNorms) {
      throw InputError(formatted(
          "method.personal: model {} has no norms; set model.norm, or take other parameters",
          experiment.model.name));
    }
    throw InputError(formatted(
        "method.personal: '{}' is no block and no parameter of model {}; its blocks are {}",
        pattern, experiment.model.name, fmt::to_string(fmt::join(layout->blocks, ", "))));
  }
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
