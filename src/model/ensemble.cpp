#include "espalier/model/ensemble.h"

#include <fmt/ranges.h>

#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/buffer_layout.h"
#include "espalier/model/unit_window.h"

namespace espalier {
namespace {

/// The configuration of one member.
Config narrow(const Config& config, const ModelFamily& family, std::int64_t members) {
  Config own = config;
  const double fraction = 1 / static_cast<double>(members);
  const auto share = [&](double width) {  // 0: the family has no such layer
    return width == 0 ? std::string("0")
                      : std::to_string(kept_units(fraction, static_cast<std::int64_t>(width)));
  };
  for (const std::string& key : family.widths) {
    std::string text;
    if (config.table().find(key)->type == OptionType::real_list) {
      for (const double width : config.reals(key)) text += (text.empty() ? "" : ",") + share(width);
    } else {
      text = share(static_cast<double>(config.integer(key)));
    }
    own.set(key, text, "model.members");
  }
  return own;
}

/// One member within the ensemble.
struct Member {
  std::shared_ptr<const Model> model;
  std::vector<int> axes;  ///< the ensemble's axis of each of its own
  int first_entry = 0;

  Submodel cut(const Submodel& whole) const {
    Submodel own = Submodel::full(*model->layout);
    for (int axis = 0; axis < own.axes(); ++axis) {
      const int outer = axes[static_cast<std::size_t>(axis)];
      if (whole.is_full(outer)) continue;
      const auto units = whole.units(outer);
      own.keep(axis, {units.begin(), units.end()});
    }
    return own;
  }

  at::Tensor forward(const Parameters& p, const at::Tensor& x, Context& context) const {
    const auto buffer_layout =
        std::make_shared<const BufferLayout>(model->layout, cut(p.submodel()), Packing::aligned);
    const std::size_t entries = model->layout->entries.size();
    std::vector<at::Tensor> statistics(entries);
    std::vector<std::int64_t> values(entries);
    Context own = context;
    own.taps = nullptr;
    own.exits = nullptr;
    own.gates = nullptr;
    if (context.statistics != nullptr) own.statistics = &statistics;
    if (context.statistic_values != nullptr) own.statistic_values = &values;
    at::Tensor logits = espalier::forward(*model, p.part(buffer_layout, first_entry), x, own);
    for (std::size_t i = 0; i < entries; ++i) {
      if (!statistics[i].defined()) continue;
      const auto outer = static_cast<std::size_t>(first_entry) + i;
      (*context.statistics)[outer] = statistics[i];
      if (context.statistic_values != nullptr) (*context.statistic_values)[outer] = values[i];
    }
    return logits;
  }

  void cost(CostTape& tape) const {
    ESPALIER_CHECK(tape.stage == nullptr, "members of an ensemble have no masks to search for");
    const Submodel own = cut(tape.submodel);
    CostTape inner{own, tape.batch, tape.shape, {}, -1, nullptr, tape.layout, first_entry};
    for (const Block& block : model->blocks) block.cost(inner);
    const int input = tape.current;
    const auto offset = static_cast<int>(tape.nodes.size());
    for (NodeCost& node : inner.nodes) {
      for (int& from : node.inputs) from = from < 0 ? input : from + offset;
      tape.add(std::move(node));
    }
    tape.shape = inner.shape;
  }
};

/// Appends the axes and entries of the member, except its axis of classes, and makes its block.
void append(Model& model, Layout& layout, Member member, const std::string& name) {
  const Layout& own = *member.model->layout;
  const int block = layout.add_block(name);
  for (int axis = 0; axis < static_cast<int>(own.axes.size()); ++axis) {
    if (axis == member.model->class_axis) {
      member.axes.push_back(model.class_axis);
      continue;
    }
    Axis added = own.axes[static_cast<std::size_t>(axis)];
    added.name = name + "." + added.name;
    if (added.within >= 0) added.within = member.axes[static_cast<std::size_t>(added.within)];
    member.axes.push_back(static_cast<int>(layout.axes.size()));
    layout.axes.push_back(std::move(added));
  }
  member.first_entry = static_cast<int>(layout.entries.size());
  for (Entry entry : own.entries) {
    entry.name = name + "." + entry.name;
    entry.block = block;
    for (Dimension& dimension : entry.dimensions) {
      for (Factor& factor : dimension) {
        if (factor.axis >= 0) factor.axis = member.axes[static_cast<std::size_t>(factor.axis)];
      }
    }
    layout.add_entry(std::move(entry));
  }
  for (Adapter adapter : own.adapters) {
    for (int* entry : {&adapter.weight, &adapter.down, &adapter.up}) *entry += member.first_entry;
    adapter.rank = member.axes[static_cast<std::size_t>(adapter.rank)];
    layout.adapters.push_back(adapter);
  }
  layout.adapter_choice = own.adapter_choice;
  const auto shared = std::make_shared<const Member>(std::move(member));
  model.blocks.push_back({name,
                          [shared](const Parameters& p, const at::Tensor& x, Context& context) {
                            return shared->forward(p, x, context);
                          },
                          [shared](CostTape& tape) { shared->cost(tape); }});
  model.exits.push_back({block, 0});
}

}  // namespace

void declare_ensemble_option(OptionTable& table) {
  table.add({"model.members", OptionType::integer, "1",
             "independent networks side by side, each with this part of every width (8: an "
             "eighth); the prediction is the mean of their outputs (mlp, cnn, cnn1d, vgg, resnet, "
             "lstm)",
             "", 1, 1e4});
}

Model ensemble(const Config& config, const std::string& name, const DataShape& shape,
               std::int64_t members) {
  const ModelFamily& family = model_families().get(name).value;
  if (family.widths.empty()) {
    std::vector<std::string> others;
    for (const auto& item : model_families().items()) {
      if (!item.value.widths.empty()) others.push_back(item.name);
    }
    throw InputError(
        formatted("model.members = {}: model.name = {} has no narrower networks; take {}, or set "
                  "model.members = 1",
                  members, name, fmt::join(others, ", ")));
  }
  if (config.integer("model.exits") > 1) {
    throw InputError(
        "model.members and model.exits are both above 1, and members have one classifier each: set "
        "one of them to 1");
  }
  auto member = std::make_shared<Model>(family.build(narrow(config, family, members), shape));
  member->name = name;
  member->shape = shape;
  member->exits = {{static_cast<int>(member->blocks.size()) - 1, 0}};
  Model model;
  model.name = name;
  model.shape = shape;
  model.is_ensemble = true;
  const auto layout = std::make_shared<Layout>();
  model.class_axis = layout->add_axis("classes", shape.classes, false);
  for (std::int64_t k = 0; k < members; ++k) {
    append(model, *layout, {member, {}, 0}, formatted("members.{}", k));
  }
  model.layout = layout;
  return model;
}

at::Tensor mean_of(std::span<const at::Tensor> logits) {
  at::Tensor sum = logits.front();
  for (const at::Tensor& other : logits.subspan(1)) sum = sum + other;
  return logits.size() == 1 ? sum : sum / static_cast<double>(logits.size());
}

}  // namespace espalier
