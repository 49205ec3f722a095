#include "espalier/model/adapter.h"

#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/config/lists.h"
#include "espalier/model/entry_names.h"
#include "espalier/model/operations.h"
#include "espalier/model/row_operations.h"

namespace espalier {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);

}  // namespace

void declare_adapter_options(OptionTable& table) {
  table.add({"model.adapter_rank", OptionType::integer, "0",
             "rank of low-rank adapters beside linear layers; 0 = no adapters", "", 0, 1e6});
  table.add({"model.adapter_alpha", OptionType::real, "0",
             "adapters: their output is multiplied by model.adapter_alpha / model.adapter_rank; "
             "0 = the rank, so by 1",
             "", 0, 1e6});
  table.add({"model.adapter_modules", OptionType::text, "*",
             "adapters: linear layers that get one, with * and ?, separated by commas (such as "
             "*.attn.*); not the weights of an LSTM, nor a head that is tied to an embedding"});
}

std::shared_ptr<Layout> new_layout(const Config& config) {
  auto layout = std::make_shared<Layout>();
  AdapterChoice& choice = layout->adapter_choice;
  choice.rank = config.integer("model.adapter_rank");
  if (choice.rank == 0) return layout;
  const double alpha = config.real("model.adapter_alpha");
  choice.scale = alpha == 0 ? 1 : alpha / static_cast<double>(choice.rank);
  choice.modules = words_of(config.text("model.adapter_modules"));
  return layout;
}

void refuse_idle_adapters(const Model& model) {
  const AdapterChoice& choice = model.layout->adapter_choice;
  for (const std::string& pattern : choice.modules) {
    const auto is_named = [&](const std::string& name) { return fits_pattern(pattern, name); };
    if (std::ranges::any_of(choice.layers, is_named)) continue;
    throw InputError(
        formatted("model.adapter_modules: '{}' is no linear layer of model {}; they are {}",
                  pattern, model.name, fmt::to_string(fmt::join(choice.layers, ", "))));
  }
}

std::optional<Adapter> add_adapter(Layout& layout, int block, const std::string& name, int weight,
                                   const Dimension& out, const Dimension& in) {
  AdapterChoice& choice = layout.adapter_choice;
  if (choice.rank == 0) return std::nullopt;
  choice.layers.push_back(name);
  const auto is_named = [&](const std::string& pattern) { return fits_pattern(pattern, name); };
  if (std::ranges::none_of(choice.modules, is_named)) return std::nullopt;
  Adapter adapter;
  adapter.weight = weight;
  adapter.scale = choice.scale;
  adapter.rank = layout.add_axis(name + ".rank", choice.rank, /*cuttable=*/false);
  std::int64_t inputs = 1;
  for (const Factor& factor : in) {
    inputs *=
        factor.axis < 0 ? factor.size : layout.axes[static_cast<std::size_t>(factor.axis)].size;
  }
  Entry down{name + ".lora_A.weight",
             Kind::trainable,
             block,
             {layout.along(adapter.rank), in},
             {Init::Rule::uniform, 1 / std::sqrt(static_cast<double>(inputs))},
             /*product=*/true};
  down.adapter = true;
  Entry up{name + ".lora_B.weight", Kind::trainable, block, {out, layout.along(adapter.rank)}, {},
           /*product=*/true};
  up.adapter = true;
  adapter.down = layout.add_entry(std::move(down));
  adapter.up = layout.add_entry(std::move(up));
  layout.adapters.push_back(adapter);
  return adapter;
}

at::Tensor adapted(at::Tensor y, const at::Tensor& x, const Parameters& p,
                   const std::optional<Adapter>& adapter, double factor) {
  if (!adapter) return y;
  return add_low_rank(std::move(y), x, p.weight(adapter->down), p.weight(adapter->up),
                      factor * adapter->scale);
}

at::Tensor adapted_by_row(at::Tensor y, const at::Tensor& x, const Parameters& p,
                          const std::optional<Adapter>& adapter) {
  if (!adapter) return y;
  const at::Tensor inner = product_by_row(x, p[adapter->down], at::Tensor());
  at::Tensor change = product_by_row(inner, p[adapter->up], at::Tensor());
  // Multiplied before the sum: LibTorch fuses the two in some of its lanes only.
  return y.add_(change.mul_(adapter->scale));
}

// The operation is two nodes of the tape: A x, and the sum, which keeps A x for its backward pass.
void add_adapter_cost(CostTape& tape, const std::optional<Adapter>& adapter, int input,
                      std::int64_t rows, std::int64_t inputs, std::int64_t outputs) {
  if (!adapter) return;
  const std::int64_t rank = tape.submodel.width(adapter->rank);
  const int y = tape.current;
  NodeCost down;
  down.work = Work::product;
  down.inputs = {input};
  down.forward_flops = 2 * rows * rank * inputs;
  down.weight_bytes = rank * inputs * kFloatBytes;
  down.output_bytes = rows * rank * kFloatBytes;
  down.trains = tape.trains(adapter->down);
  down.saves_input = down.trains;
  down.backward_scratch_bytes = 2 * down.output_bytes;  // its output and the output's gradient
  tape.add(down);
  NodeCost up;
  up.work = Work::product;
  up.inputs = {y, tape.current};
  up.in_place = true;
  up.passes_gradient = true;
  up.forward_flops = 2 * rows * rank * outputs;
  up.weight_bytes = rank * outputs * kFloatBytes;
  up.output_bytes = rows * outputs * kFloatBytes;
  up.trains = tape.trains(adapter->up);
  up.saved_bytes = up.trains ? down.output_bytes : 0;
  up.backward_scratch_bytes = down.output_bytes;
  tape.add(up);
}

void merge_adapters(Parameters& full) {
  for (const Adapter& adapter : full.buffer_layout().layout().adapters) {
    const at::Tensor up = full[adapter.up].flatten(1);
    const at::Tensor down = full[adapter.down].flatten(1);
    full[adapter.weight].flatten(1).addmm_(up, down, 1, adapter.scale);
    up.zero_();
  }
}

}  // namespace espalier
