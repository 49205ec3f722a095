#pragma once
// Low-rank adapters of linear layers (Hu et al. 2022, LoRA): y = W x + (alpha / r) B (A x) with
// A [r, in] and B [out, r]. The factors are entries of the layout beside the layer's weight, and
// their rank is an axis, so that a submodel may keep the leading ranks.

#include <memory>
#include <optional>
#include <string>

#include "espalier/config/config.h"
#include "espalier/model/model.h"

namespace espalier {

/// model.adapter_rank, model.adapter_alpha, model.adapter_modules.
void declare_adapter_options(OptionTable& table);
/// An empty layout, whose linear layers get adapters if the options name them.
std::shared_ptr<Layout> new_layout(const Config& config);
/// InputError if a pattern of model.adapter_modules names no linear layer.
void refuse_idle_adapters(const Model& model);

/// Adds the entries `name`.lora_A.weight and `name`.lora_B.weight of the linear layer `name`, if
/// the layout's choice names it. A is drawn like PyTorch's linear layers, B is zero.
std::optional<Adapter> add_adapter(Layout& layout, int block, const std::string& name, int weight,
                                   const Dimension& out, const Dimension& in);
/// y with factor x scale x B (A x) added in place; y itself without an adapter. y must be no view,
/// nor saved by the operation that computed it.
at::Tensor adapted(at::Tensor y, const at::Tensor& x, const Parameters& p,
                   const std::optional<Adapter>& adapter, double factor = 1);
/// The same with a key-value cache, row by row (row_operations.h).
at::Tensor adapted_by_row(at::Tensor y, const at::Tensor& x, const Parameters& p,
                          const std::optional<Adapter>& adapter);
/// Adds its cost. y is the tape's current node, and the layer read `input` of `rows` x `inputs`
/// values.
void add_adapter_cost(CostTape& tape, const std::optional<Adapter>& adapter, int input,
                      std::int64_t rows, std::int64_t inputs, std::int64_t outputs);

/// Adds scale x B A to the weight of each linear layer with an adapter, and makes B zero.
void merge_adapters(Parameters& full);

}  // namespace espalier
