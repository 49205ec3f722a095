#include "espalier/model/entry_names.h"

#include <fmt/ranges.h>
#include <fnmatch.h>

#include <set>

#include "espalier/base/error.h"
#include "espalier/config/lists.h"

namespace espalier {
namespace {

constexpr const char* kNorms = "norms";
constexpr const char* kAdapters = "adapters";

/// "conv1" of "conv1.weight".
std::string layer_of(const Entry& entry) { return entry.name.substr(0, entry.name.rfind('.')); }

/// Names of the norms: only their weights begin at one.
std::set<std::string> names_of_norms(const Layout& layout) {
  std::set<std::string> names;
  for (const Entry& entry : layout.entries) {
    if (entry.kind != Kind::statistic && entry.init.rule == Init::Rule::ones) {
      names.insert(layer_of(entry));
    }
  }
  return names;
}

}  // namespace

bool fits_pattern(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

std::vector<bool> named_entries(const Config& config, const std::string& key, const Model& model) {
  const Layout& layout = *model.layout;
  const std::set<std::string> norms = names_of_norms(layout);
  std::vector<bool> named(layout.entries.size(), false);
  const std::vector<std::string> patterns = words_of(config.text(key));
  if (patterns.empty() && !config.text(key).empty()) {
    throw InputError(formatted("{} = '{}' names nothing; leave it out, or name parameters", key,
                               config.text(key)));
  }
  for (const std::string& pattern : patterns) {
    const auto fits = [&](const Entry& entry) {
      if (pattern == kNorms && norms.contains(layer_of(entry))) return true;
      if (pattern == kAdapters && entry.adapter) return true;
      return fits_pattern(pattern, entry.name) ||
             fits_pattern(pattern, layout.blocks[static_cast<std::size_t>(entry.block)]);
    };
    bool found = false;
    bool is_frozen = false;  // an entry that fits
    for (std::size_t i = 0; i < layout.entries.size(); ++i) {
      const Entry& entry = layout.entries[i];
      if (entry.kind == Kind::statistic || !fits(entry)) continue;
      is_frozen = is_frozen || entry.kind == Kind::frozen;
      if (entry.kind == Kind::trainable) named[i] = found = true;
    }
    if (found) continue;
    if (is_frozen) {
      throw InputError(formatted(
          "{}: '{}' names only frozen parameters; leave it out, or train them", key, pattern));
    }
    if (pattern == kNorms) {
      throw InputError(formatted(
          "{}: model {} has no norms; set model.norm, or take other parameters", key, model.name));
    }
    if (pattern == kAdapters) {
      throw InputError(formatted(
          "{}: model {} has no adapters; set model.adapter_rank, or take other parameters", key,
          model.name));
    }
    throw InputError(
        formatted("{}: '{}' is no block and no parameter of model {}; its blocks are {}", key,
                  pattern, model.name, fmt::to_string(fmt::join(layout.blocks, ", "))));
  }
  return named;
}

}  // namespace espalier
