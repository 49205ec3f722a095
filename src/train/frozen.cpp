#include "espalier/train/frozen.h"

#include <algorithm>

#include "espalier/base/error.h"
#include "espalier/device/memory.h"
#include "espalier/model/entry_names.h"

namespace espalier {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);

bool is_given(const Config& config, const char* key) { return !config.text(key).empty(); }

}  // namespace

void declare_freeze_options(OptionTable& table) {
  table.add({"train.freeze", OptionType::text, "",
             formatted("frozen parameters, which are not trained, merged or sent with updates: {}; "
                       "empty = none",
                       kEntryPatterns)});
  table.add({"train.only", OptionType::text, "",
             "trained parameters, named as for train.freeze; all others are frozen; empty = all"});
}

void freeze_entries(const Config& config, Model& model) {
  const bool has_only = is_given(config, "train.only");
  if (!has_only && !is_given(config, "train.freeze")) return;
  const std::vector<bool> freeze = named_entries(config, "train.freeze", model);
  const std::vector<bool> only = named_entries(config, "train.only", model);
  auto layout = std::make_shared<Layout>(*model.layout);
  bool is_trained = false;
  for (std::size_t i = 0; i < freeze.size(); ++i) {
    Entry& entry = layout->entries[i];
    if (entry.kind != Kind::trainable) continue;
    if (freeze[i] || (has_only && !only[i])) {
      entry.kind = Kind::frozen;
    } else {
      is_trained = true;
    }
  }
  if (!is_trained) {
    throw InputError(
        "train.freeze and train.only leave nothing to train; freeze less, or train more");
  }
  model.layout = std::move(layout);
}

bool has_frozen(const Layout& layout) {
  return std::ranges::any_of(layout.entries,
                             [](const Entry& entry) { return entry.kind == Kind::frozen; });
}

std::int64_t frozen_values(const std::shared_ptr<const Layout>& layout, const Submodel& submodel) {
  return BufferLayout(layout, submodel, Packing::frozen).count();
}

std::string parameters_description(const BufferLayout& buffer_layout) {
  const std::int64_t trained = buffer_layout.count(Kind::trainable);
  const std::int64_t frozen = buffer_layout.count(Kind::frozen);
  if (frozen == 0) return formatted("{} parameters", trained);
  return formatted("{} parameters, {} of them trained and {} frozen", trained + frozen, trained,
                   frozen);
}

void FrozenValues::allocate_own(PlanCache& plans, const Layout& layout) {
  values_ = Parameters(plans.buffer_layout(Submodel::full(layout), Packing::frozen));
}

at::Tensor FrozenValues::buffer() const {
  const Range range = values_.buffer_layout().kind_range(Kind::frozen);
  return values_.flat().narrow(0, range.begin, range.size());
}

Parameters FrozenValues::allocate(PlanCache& plans, const Layout& own,
                                  std::shared_ptr<const BufferLayout> aligned) const {
  ESPALIER_CHECK(values_.flat().defined(), "the frozen values are not there yet");
  const auto is_whole = [&](std::size_t i) {
    const BufferLayout::Place& place = aligned->place(static_cast<int>(i));
    if (!place.present || own.entries[i].kind != Kind::frozen) return true;
    return place.shape == values_.buffer_layout().place(static_cast<int>(i)).shape;
  };
  const bool is_own = &aligned->layout() == &own;
  bool are_whole = is_own;
  for (std::size_t i = 0; are_whole && i < own.entries.size(); ++i) are_whole = is_whole(i);
  if (are_whole) {
    const std::int64_t bytes = aligned->kind_range(Kind::frozen).size() * kFloatBytes;
    return {std::move(aligned), values_, charge_scope(bytes)};
  }
  Parameters parameters(aligned);
  const BufferLayout& from = values_.buffer_layout();
  const float* const values = values_.flat().const_data_ptr<float>();
  if (is_own) {
    plans.plan(from, *aligned, nullptr, kFrozen)->copy(values, parameters.data());
  } else {  // the plan cache holds only plans of the model's own layout
    Plan(from, *aligned, nullptr, kFrozen).copy(values, parameters.data());
  }
  return parameters;
}

}  // namespace espalier
