#include "espalier/model/transformer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/adapter.h"
#include "espalier/model/buffer_layout.h"
#include "espalier/model/gelu.h"
#include "espalier/model/key_value_cache.h"
#include "espalier/model/operations.h"
#include "espalier/model/row_operations.h"

namespace espalier {
namespace {

// Blocks if model.depth is 0.
constexpr std::int64_t kDepth = 6;

constexpr std::int64_t kFloatBytes = sizeof(float);
// Bytes of the vectors and scalars of a layer's kernels, which the cost does not list one by one.
constexpr std::int64_t kVectorBytes = 1024;
constexpr double kDeviation = 0.02;

std::int64_t full_width(const Dimension& dimension, const Submodel& submodel) {
  std::int64_t positions = 1;
  for (const Factor& factor : dimension)
    positions *= factor.axis < 0 ? factor.size : submodel.full_width(factor.axis);
  return positions;
}

/// HeteroFL's scaler: the factor of a layer's output, 1 / kept fraction. As a factor of the layer's
/// product it costs neither time nor memory.
double scaler(const Submodel& submodel, const Dimension& out, const Context& context) {
  if (!context.scaler || context.mode != Mode::train) return 1;
  return static_cast<double>(full_width(out, submodel)) / static_cast<double>(width(out, submodel));
}

std::int64_t stream_rows(const CostTape& tape) { return tape.batch * tape.shape[0]; }

/// A layer that reads a tensor [batch, positions, ...] and returns one with `width` values for each
/// position.
NodeCost row_node(CostTape& tape, std::int64_t width) {
  tape.shape.back() = width;
  NodeCost node;
  node.output_bytes = stream_rows(tape) * width * kFloatBytes;
  return node;
}

Dimension joined(Dimension first, const Dimension& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

/// Adds y, the result of a layer that does not save it, into the stream x at the kept positions of
/// `rows`.
Layer residual(std::vector<Layer> branch, int rows) {
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    at::Tensor y = x;
    for (const Layer& part : branch) y = part.forward(p, y, context);
    const std::vector<std::int64_t> positions = p.submodel().positions(rows);
    if (positions.empty()) return y.add_(x);
    return add_at(x, y, at::tensor(positions, at::kLong));
  };
  layer.cost = [=](CostTape& tape) {
    const int stream = tape.current;
    const std::vector<std::int64_t> shape = tape.shape;
    for (const Layer& part : branch) add_cost(tape, part);
    const auto chosen = static_cast<std::int64_t>(tape.submodel.positions(rows).size());
    if (chosen > 0) {
      // Its gradient is selected from the stream's.
      NodeCost pick = row_node(tape, chosen);
      pick.in_place = true;
      pick.saved_bytes = chosen * static_cast<std::int64_t>(sizeof(std::int64_t));
      tape.add(pick);
    }
    NodeCost sum;
    sum.forward_flops = tape.elements();
    sum.inputs = {tape.current, stream};
    sum.passes_gradient = true;
    sum.in_place = chosen == 0;
    tape.shape = shape;
    sum.output_bytes = tape.elements() * kFloatBytes;
    tape.add(sum);
  };
  return layer;
}

Layer gelu_layer(bool tanh) {
  Layer layer;
  layer.forward = [=](const Parameters&, const at::Tensor& x, Context&) { return gelu(x, tanh); };
  layer.cost = [](CostTape& tape) {
    NodeCost node = row_node(tape, tape.shape.back());
    node.forward_flops = tape.elements();
    node.saved_bytes = tape.elements() * kFloatBytes;  // its derivative
    tape.add(node);
  };
  return layer;
}

/// silu(gate(x)) up(x) (Shazeer 2020).
Layer swiglu(Layer gate, Layer up) {
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    const at::Tensor gates = gate.forward(p, x, context);
    if (context.cache) return silu_product_by_row(gates, up.forward(p, x, context));
    return at::silu(gates) * up.forward(p, x, context);
  };
  layer.cost = [=](CostTape& tape) {
    const int input = tape.current;
    const std::vector<std::int64_t> shape = tape.shape;
    gate.cost(tape);
    NodeCost silu = row_node(tape, tape.shape.back());
    silu.forward_flops = tape.elements();
    silu.saves_input = true;
    tape.add(silu);
    const int gated = tape.current;
    tape.current = input;
    tape.shape = shape;
    up.cost(tape);
    NodeCost product = row_node(tape, tape.shape.back());
    product.forward_flops = tape.elements();
    product.inputs = {gated, tape.current};
    product.saves_input = true;
    tape.add(product);
  };
  return layer;
}

/// Cosines and sines [2, positions, pairs] of position x base^(-pair / pairs), computed once for
/// the full model and used by all its submodels.
at::Tensor rotary_table(std::int64_t positions, std::int64_t pairs, double base) {
  at::Tensor table = at::empty({2, positions, pairs});
  auto values = table.accessor<float, 3>();
  for (std::int64_t position = 0; position < positions; ++position) {
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
      const double angle = static_cast<double>(position) *
                           std::pow(base, -static_cast<double>(pair) / static_cast<double>(pairs));
      values[0][position][pair] = static_cast<float>(std::cos(angle));
      values[1][position][pair] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

/// The rows of the table for the kept pairs (each keeps its own frequency) and `positions`
/// positions from `first` on.
at::Tensor kept_angles(const at::Tensor& table, std::int64_t first, std::int64_t positions,
                       const Submodel& submodel, int axis) {
  ESPALIER_CHECK(first + positions <= table.size(1), "{} positions from {} on of {}", positions,
                 first, table.size(1));
  const at::Tensor rows = table.narrow(1, first, positions);
  if (submodel.is_full(axis)) return rows;
  const auto units = submodel.units(axis);
  return rows.index_select(
      2, at::tensor(at::ArrayRef<std::int64_t>(units.data(), units.size()), at::kLong));
}

at::Tensor padded(const at::Tensor& x, std::int64_t width) {
  return x.size(-1) == width ? x : at::constant_pad_nd(x, {0, width - x.size(-1)});
}

/// Scratch of LibTorch's attention kernels on the processor: per thread a tile of scores (two of
/// them backward) and its rows' sums.
struct AttentionScratch {
  AttentionScratch(std::int64_t positions, std::int64_t columns) {
    const std::int64_t queries = std::min<std::int64_t>(positions, positions >= 768   ? 256
                                                                   : positions >= 192 ? 64
                                                                                      : 32);
    const std::int64_t tile = queries * std::min<std::int64_t>(positions, 512);
    const std::int64_t threads = at::get_num_threads();
    forward_bytes = threads * (tile + queries * (2 + columns)) * kFloatBytes + kVectorBytes;
    backward_bytes = threads * (2 * tile + queries) * kFloatBytes + kVectorBytes;
  }
  std::int64_t forward_bytes;
  std::int64_t backward_bytes;
};

/// Self-attention without its output projection: [batch, positions, embed] to [batch, positions,
/// heads x value columns].
struct Attention {
  TransformerChoice choice;
  TransformerAxes axes;
  std::vector<Layer> projections;  // fused: one; else queries, keys, values
  Dimension head_columns;          // of queries and keys
  Dimension value_columns;
  at::Tensor table;  // rotary

  std::int64_t groups() const { return choice.heads / choice.kv_heads; }

  at::Tensor rotated(at::Tensor x, const Submodel& submodel, std::int64_t heads,
                     const KeyValueCache* cache) const {
    if (!choice.rotary) return x;
    const at::Tensor kept =
        kept_angles(table, cache ? cache->length() : 0, x.size(1), submodel, axes.columns);
    return cache ? rotate_by_row_(std::move(x), kept, heads) : rotate_(std::move(x), kept, heads);
  }

  /// Keys or values [batch, heads, positions, columns], repeated for each query head that uses
  /// them.
  at::Tensor repeat_kv(const at::Tensor& x) const {
    if (groups() == 1) return x;
    return x.unsqueeze(2)
        .expand({x.size(0), x.size(1), groups(), x.size(2), x.size(3)})
        .reshape({x.size(0), -1, x.size(2), x.size(3)});
  }

  double scale(const Submodel& submodel) const {
    const std::int64_t by = choice.scale == ScoreScale::embed  ? choice.embed
                            : choice.scale == ScoreScale::full ? full_width(head_columns, submodel)
                                                               : width(head_columns, submodel);
    return 1 / std::sqrt(static_cast<double>(by));
  }

  /// Numbers of a cache for each position.
  std::int64_t cached(const Submodel& submodel) const {
    return submodel.width(axes.heads) *
           (width(head_columns, submodel) + width(value_columns, submodel));
  }

  at::Tensor cached_forward(const Parameters& p, const at::Tensor& x, Context& context) const {
    const Submodel& submodel = p.submodel();
    KeyValueCache& cache = *context.cache;
    const std::int64_t positions = x.size(1);
    const std::int64_t units = submodel.width(axes.heads);
    const std::int64_t columns = width(head_columns, submodel);
    const std::int64_t values = width(value_columns, submodel);
    const auto projected = [&](std::size_t i, std::int64_t rotated_heads) {
      at::Tensor y = projections[i].forward(p, x, context);
      return rotated_heads > 0 ? rotated(std::move(y), submodel, rotated_heads, &cache) : y;
    };
    const auto heads_of = [](const at::Tensor& y, std::int64_t first, std::int64_t count,
                             std::int64_t width_of_one) {
      return HeadRows{y.const_data_ptr<float>() + first, y.size(2), count, width_of_one};
    };
    at::Tensor query, key, value;  // they keep the memory of q, k and v
    HeadRows q, k, v;
    if (choice.fused_qkv) {
      query = projected(0, 2 * units);
      q = heads_of(query, 0, units, columns);
      k = heads_of(query, units * columns, units, columns);
      v = heads_of(query, 2 * units * columns, units, columns);
    } else {
      query = projected(0, units * groups());
      key = projected(1, units);
      value = projected(2, 0);
      q = heads_of(query, 0, units * groups(), columns);
      k = heads_of(key, 0, units, columns);
      v = heads_of(value, 0, units, values);
    }
    const KeyValueCache::Entry& own = cache.append(axes.block, k, v, positions);
    return attend_by_row(q, own.keys, own.values, positions, cache.length() + positions,
                         scale(submodel));
  }

  at::Tensor forward(const Parameters& p, const at::Tensor& x, Context& context) const {
    if (context.cache) return cached_forward(p, x, context);
    const Submodel& submodel = p.submodel();
    const std::int64_t units = submodel.width(axes.heads);
    const std::int64_t columns = width(head_columns, submodel);
    const std::int64_t values = width(value_columns, submodel);
    // LibTorch's fused kernel needs equal widths; else LibTorch uses a kernel that stores all
    // scores.
    const std::int64_t common = std::max(columns, values);
    const auto by_head = [&](const at::Tensor& y, std::int64_t heads) {
      return padded(y.view({x.size(0), x.size(1), heads, -1}), common).transpose(1, 2);
    };
    at::Tensor q, k, v;
    if (choice.fused_qkv) {
      const at::Tensor qkv =
          rotated(projections[0].forward(p, x, context), submodel, 2 * units, nullptr);
      const auto parts = qkv.view({x.size(0), x.size(1), 3, units, -1}).unbind(2);
      q = parts[0].transpose(1, 2);
      k = parts[1].transpose(1, 2);
      v = parts[2].transpose(1, 2);
    } else {
      const std::int64_t heads = units * groups();
      q = by_head(rotated(projections[0].forward(p, x, context), submodel, heads, nullptr), heads);
      k = repeat_kv(
          by_head(rotated(projections[1].forward(p, x, context), submodel, units, nullptr), units));
      v = repeat_kv(by_head(projections[2].forward(p, x, context), units));
    }
    at::Tensor y =
        at::scaled_dot_product_attention(q, k, v, {}, 0.0, choice.causal, scale(submodel));
    if (values < common) y = y.narrow(3, 0, values);
    return y.transpose(1, 2).flatten(2);
  }

  void rotation_cost(CostTape& tape, std::int64_t rotated_width) const {
    if (!choice.rotary) return;
    NodeCost node = row_node(tape, tape.shape.back());
    node.in_place = true;
    node.forward_flops = 3 * stream_rows(tape) * rotated_width;
    node.forward_scratch_bytes = stream_rows(tape) * rotated_width / 2 * kFloatBytes;
    if (!tape.submodel.is_full(axes.columns)) {
      node.saved_bytes = 2 * tape.shape[0] * tape.submodel.width(axes.columns) * kFloatBytes;
    }
    tape.add(node);
  }

  /// A copy of the current node's values at another width per position.
  int copy_cost(CostTape& tape, std::int64_t row_width) const {
    tape.add(row_node(tape, row_width));
    return tape.current;
  }

  void cost(CostTape& tape) const {
    const Submodel& submodel = tape.submodel;
    const std::int64_t units = submodel.width(axes.heads);
    const std::int64_t heads = units * groups();
    const std::int64_t columns = width(head_columns, submodel);
    const std::int64_t values = width(value_columns, submodel);
    const std::int64_t common = std::max(columns, values);
    const std::int64_t positions = tape.shape[0];
    const int input = tape.current;
    const std::int64_t stream = tape.shape.back();
    std::vector<int> read;
    if (choice.fused_qkv) {
      projections[0].cost(tape);
      rotation_cost(tape, 2 * units * columns);
      // Forward these are views; backward copies the three gradients side by side.
      NodeCost split = row_node(tape, tape.shape.back());
      split.in_place = true;
      tape.add(split);
      read = {tape.current};
    } else {
      for (int i = 0; i < 3; ++i) {
        tape.current = input;
        tape.shape.back() = stream;
        projections[static_cast<std::size_t>(i)].cost(tape);
        const std::int64_t own_heads = i == 0 ? heads : units;
        const std::int64_t own_columns = i == 2 ? values : columns;
        if (i < 2) rotation_cost(tape, own_heads * own_columns);
        if (own_columns < common) copy_cost(tape, own_heads * common);
        if (own_heads < heads) copy_cost(tape, heads * common);
        read.push_back(tape.current);
      }
    }
    NodeCost attend = row_node(tape, heads * common);
    const std::int64_t rows = stream_rows(tape);
    attend.work = Work::attention;
    attend.forward_flops = rows * positions * heads * (2 * columns + 2 * values + 1);
    attend.inputs = read;
    attend.saves_input = true;
    attend.saves_output = true;
    attend.saved_bytes = rows * heads * kFloatBytes;  // logarithms of the scores' sums
    const AttentionScratch scratch(positions, common);
    attend.forward_scratch_bytes = scratch.forward_bytes;
    attend.backward_scratch_bytes = scratch.backward_bytes;
    tape.add(attend);
    if (values < common) copy_cost(tape, heads * values);
  }
};

Layer attention(Attention a) {
  Layer layer;
  layer.forward = [a](const Parameters& p, const at::Tensor& x, Context& context) {
    return a.forward(p, x, context);
  };
  layer.cost = [a](CostTape& tape) { a.cost(tape); };
  return layer;
}

/// "attn.q_proj" beside "attn.qkv".
std::string beside(const std::string& name, const char* last) {
  const std::size_t dot = name.rfind('.');
  return (dot == std::string::npos ? "" : name.substr(0, dot + 1)) + last;
}

Attention make_attention(const TransformerChoice& choice, Layout& layout, int block,
                         const std::string& qkv, const Dimension& stream,
                         const TransformerAxes& axes) {
  Attention a;
  a.choice = choice;
  a.axes = axes;
  const std::int64_t columns = choice.embed / choice.heads;
  if (choice.rotary) {
    a.head_columns = {{-1, 2}, {axes.columns, 1}};
    a.table = rotary_table(choice.positions, columns / 2, choice.rotary_base);
  } else {
    a.head_columns = {{axes.columns, 1}};
  }
  a.value_columns =
      axes.value_columns == axes.columns ? a.head_columns : Dimension{{axes.value_columns, 1}};
  const Dimension heads{{axes.heads, 1}};
  const auto project = [&](const std::string& name, Dimension out) {
    a.projections.push_back(
        dense(layout, block, name, std::move(out), stream, choice.qkv_bias, kDeviation));
  };
  if (choice.fused_qkv) {
    project(qkv, joined({{-1, 3}, {axes.heads, 1}}, a.head_columns));
  } else {
    project(beside(qkv, "q_proj"),
            joined({{axes.heads, 1}, {-1, choice.heads / choice.kv_heads}}, a.head_columns));
    project(beside(qkv, "k_proj"), joined(heads, a.head_columns));
    project(beside(qkv, "v_proj"), joined(heads, a.value_columns));
  }
  return a;
}

Layer first_token() {
  Layer layer;
  // Copied, so that the stream's memory is free for later operations.
  layer.forward = [](const Parameters&, const at::Tensor& x, Context&) {
    return x.select(1, 0).contiguous();
  };
  layer.cost = [](CostTape& tape) {
    tape.shape.erase(tape.shape.begin());
    NodeCost node;
    node.output_bytes = tape.elements() * kFloatBytes;
    tape.add(node);
  };
  return layer;
}

/// The positions of the hidden tokens: [batch, positions, embed] becomes [batch, masked, embed].
Layer hidden_tokens(std::int64_t masked) {
  Layer layer;
  layer.forward = [](const Parameters&, const at::Tensor& x, Context& context) {
    return rows_at(x, context.hidden);
  };
  layer.cost = [=](CostTape& tape) {
    tape.shape[0] = masked;
    NodeCost node;
    node.output_bytes = tape.elements() * kFloatBytes;
    tape.add(node);
  };
  return layer;
}

Layer mean_token() {
  Layer layer;
  layer.forward = [](const Parameters&, const at::Tensor& x, Context&) { return x.mean(1); };
  layer.cost = [](CostTape& tape) {
    NodeCost node;
    node.forward_flops = tape.elements();
    tape.shape.erase(tape.shape.begin());
    node.output_bytes = tape.elements() * kFloatBytes;
    tape.add(node);
  };
  return layer;
}

}  // namespace

void declare_transformer_options(OptionTable& table) {
  declare_depth(table);
  table.add(
      {"model.embed", OptionType::integer, "192",
       "transformers: width of the residual stream, a multiple of model.heads; lstm: width of the "
       "embedding",
       "", 1, 1e6});
  table.add({"model.heads", OptionType::integer, "3", "transformers: attention heads", "", 1, 1e4});
  table.add({"model.kv_heads", OptionType::integer, "0",
             "transformers: heads of keys and values, each used by the same number of query heads; "
             "0 = model.heads",
             "", 0, 1e4});
  table.add({"model.mlp", OptionType::integer, "0",
             "transformers: hidden neurons of a block's MLP; 0 = 4 x model.embed", "neurons", 0,
             1e7});
  table.add_choice("model.activation", "gelu",
                   "transformers: activation of the MLP; gpt uses GELU's tanh form, as GPT-2 does",
                   {"gelu", "swiglu"});
  table.add({"model.rms_norm", OptionType::boolean, "false",
             "transformers: RMS norms instead of layer norms"});
  table.add({"model.qkv_bias", OptionType::boolean, "true",
             "transformers: queries, keys and values have biases"});
  table.add(
      {"model.linear_bias", OptionType::boolean, "true",
       "transformers: the other linear layers of a block, the attention's output and those of "
       "the MLP, have biases"});
  table.add({"model.norm_epsilon", OptionType::real, "0",
             "transformers: added to the variance or the mean square in norms; 0 = the family's "
             "own (gpt: 1e-5, others 1e-6)",
             "", 0, 1});
  table.add({"model.fused_qkv", OptionType::boolean, "true",
             "transformers: queries, keys and values are one layer; with false, columns of values "
             "can be cut independently of columns of queries and keys"});
  table.add_choice("model.positions", "learned",
                   "gpt, encoder: learned embedding of each position, or rotary queries and keys",
                   {"learned", "rotary"});
  table.add({"model.rotary_base", OptionType::real, "10000",
             "rotary positions: ratio of the longest to the shortest wave length", "", 1, 1e9});
  table.add_choice("model.attention_scale", "kept",
                   "transformers: width whose square root divides attention scores: a head's kept "
                   "columns, its columns in the full model, or model.embed",
                   {"kept", "full", "embed"});
  table.add_choice("model.pooling", "token",
                   "vit, encoder: input of the classifier: the first token (vit: an extra class "
                   "token) or the mean of all",
                   {"token", "mean"});
}

TransformerChoice transformer_choice(const Config& config, double epsilon) {
  TransformerChoice c;
  c.depth = config.integer("model.depth");
  if (c.depth == 0) c.depth = kDepth;
  c.embed = config.integer("model.embed");
  c.heads = config.integer("model.heads");
  c.kv_heads = config.integer("model.kv_heads");
  c.hidden = config.integer("model.mlp");
  c.qkv_bias = config.boolean("model.qkv_bias");
  c.linear_bias = config.boolean("model.linear_bias");
  c.fused_qkv = config.boolean("model.fused_qkv");
  c.rms_norm = config.boolean("model.rms_norm");
  c.swiglu = config.text("model.activation") == "swiglu";
  const std::string scale = config.text("model.attention_scale");
  c.scale = scale == "embed"  ? ScoreScale::embed
            : scale == "full" ? ScoreScale::full
                              : ScoreScale::kept;
  c.exits = config.integer("model.exits");
  if (c.exits > c.depth) {
    throw InputError(
        formatted("model.exits = {} is more than the {} blocks of the model", c.exits, c.depth));
  }
  const double own_epsilon = config.real("model.norm_epsilon");
  c.epsilon = own_epsilon > 0 ? own_epsilon : epsilon;
  if (c.kv_heads == 0) c.kv_heads = c.heads;
  if (c.hidden == 0) c.hidden = 4 * c.embed;
  if (c.embed % c.heads != 0) {
    throw InputError(
        formatted("model.embed = {} is not a multiple of model.heads = {}", c.embed, c.heads));
  }
  if (c.heads % c.kv_heads != 0) {
    throw InputError(formatted("model.heads = {} is not a multiple of model.kv_heads = {}", c.heads,
                               c.kv_heads));
  }
  if (c.kv_heads < c.heads && c.fused_qkv) {
    throw InputError(
        formatted("model.kv_heads = {} is less than model.heads = {}: set model.fused_qkv = false, "
                  "because keys and values have other widths than queries",
                  c.kv_heads, c.heads));
  }
  return c;
}

void read_positions(TransformerChoice& choice, const Config& config) {
  choice.rotary = config.text("model.positions") == "rotary";
  choice.rotary_base = config.real("model.rotary_base");
  if (choice.rotary && choice.embed / choice.heads % 2 != 0) {
    throw InputError(
        formatted("model.positions = rotary rotates pairs of columns, but a head has {}: change "
                  "model.embed or model.heads",
                  choice.embed / choice.heads));
  }
}

Layer dense(Layout& layout, int block, const std::string& name, Dimension out, Dimension in,
            bool has_bias, double deviation, bool first) {
  const int weight = layout.add_entry({name + ".weight",
                                       Kind::trainable,
                                       block,
                                       {out, in},
                                       {Init::Rule::normal, deviation},
                                       /*product=*/true});
  const int bias =
      has_bias ? layout.add_entry({name + ".bias", Kind::trainable, block, {out}, {}}) : -1;
  const auto adapter = add_adapter(layout, block, name, weight, out, in);
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    const at::Tensor own_bias = has_bias ? p[bias] : at::Tensor();
    if (context.cache) {
      const at::Tensor y = product_by_row(x, p[weight], own_bias);
      return gated(adapted_by_row(y, x, p, adapter), out, -1, context);
    }
    const double factor = scaler(p.submodel(), out, context);
    const at::Tensor y = linear_product(x, p.weight(weight), own_bias, factor);
    return gated(adapted(y, x, p, adapter, factor), out, -1, context);
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t inputs = width(in, tape.submodel);
    const std::int64_t outputs = width(out, tape.submodel);
    ESPALIER_CHECK(tape.shape.back() == inputs, "{} gets {} values, expects {}", name,
                   tape.shape.back(), inputs);
    const int input = tape.current;
    tape.shape.back() = outputs;
    NodeCost node;
    node.work = Work::product;
    node.forward_flops = tape.elements() * (2 * inputs + (has_bias ? 1 : 0));
    node.weight_bytes = outputs * inputs * kFloatBytes;
    node.output_bytes = tape.elements() * kFloatBytes;
    node.trains = tape.trains(weight);
    node.runs_backward = tape.trains(bias);
    node.saves_input = node.trains;
    node.input_gradient = !first;
    node.backward_scratch_bytes = has_bias ? outputs * kFloatBytes : 0;
    tape.add(node);
    add_adapter_cost(tape, adapter, input, tape.elements() / outputs, inputs, outputs);
    add_gate_cost(tape, out);
  };
  return layer;
}

Layer stream_norm(const TransformerChoice& choice, Layout& layout, int block,
                  const std::string& name, int axis) {
  const bool rms = choice.rms_norm;
  const double epsilon = choice.epsilon;
  const int weight = layout.add_entry(
      {name + ".weight", Kind::trainable, block, {layout.along(axis)}, {Init::Rule::ones, 0}});
  const int bias =
      rms ? -1
          : layout.add_entry({name + ".bias", Kind::trainable, block, {layout.along(axis)}, {}});
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    if (context.cache) {
      return rms ? rms_norm_by_row(x, p[weight], epsilon)
                 : layer_norm_by_row(x, p[weight], p[bias], epsilon);
    }
    if (rms) return rms_norm(x, p[weight], epsilon);
    return at::layer_norm(x, {x.size(-1)}, p[weight], p[bias], epsilon);
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t units = tape.submodel.width(axis);
    const std::int64_t rows = tape.elements() / units;
    NodeCost node;
    node.trains = tape.trains(weight) || tape.trains(bias);
    node.forward_flops = tape.elements();
    node.output_bytes = tape.elements() * kFloatBytes;
    node.saves_input = true;
    if (rms) {
      node.saved_bytes = rows * kFloatBytes;
      node.forward_scratch_bytes = kVectorBytes;
      node.backward_scratch_bytes =
          node.output_bytes + (2 * rows + units) * kFloatBytes + kVectorBytes;
    } else {
      node.saved_bytes = 2 * rows * kFloatBytes;
      // Gradients of weight and bias, summed by each thread separately.
      node.backward_scratch_bytes =
          (2 + 2 * at::get_num_threads()) * units * kFloatBytes + kVectorBytes;
    }
    tape.add(node);
  };
  return layer;
}

double stream_scaler(const Submodel& submodel, int axis, const Context& context) {
  return scaler(submodel, {{axis, 1}}, context);
}

void add_transformer_blocks(Model& model, Layout& layout, const TransformerChoice& choice,
                            const BlockNames& names, int embed_axis, const HeadLayers& head) {
  const auto classify = [&](const std::string& name, const std::string& prefix) {
    const int block = layout.add_block(name);
    model.exits.push_back({block, static_cast<int>(model.depth.size())});
    model.blocks.push_back(make_block(layout, block, head(block, prefix)));
  };
  const Dimension stream = layout.along(embed_axis);
  for (std::int64_t i = 0; i < choice.depth; ++i) {
    const std::string name = formatted("{}.{}", names.prefix, i);
    const std::string dot = name + ".";
    TransformerAxes axes;
    axes.block = layout.add_block(name);
    axes.heads = layout.add_axis(dot + "heads", choice.kv_heads, /*cuttable=*/false);
    const std::int64_t columns = choice.embed / choice.heads;
    axes.columns = layout.add_axis(dot + "columns", choice.rotary ? columns / 2 : columns);
    axes.value_columns =
        choice.fused_qkv ? axes.columns : layout.add_axis(dot + "value_columns", columns);
    axes.attention_rows = layout.add_subset_axis(dot + "attention_rows", embed_axis);
    axes.hidden = layout.add_axis(dot + "hidden", choice.hidden);
    axes.mlp_rows = layout.add_subset_axis(dot + "mlp_rows", embed_axis);

    const auto norm = [&](const std::string& own) {
      return stream_norm(choice, layout, axes.block, dot + own, embed_axis);
    };
    const auto linear = [&](const std::string& own, Dimension out, Dimension in, double deviation) {
      return dense(layout, axes.block, dot + own, std::move(out), std::move(in), choice.linear_bias,
                   deviation);
    };
    const Dimension heads{{axes.heads, 1}, {-1, choice.heads / choice.kv_heads}};
    std::vector<Layer> attend{norm(names.norm1)};
    const Attention a = make_attention(choice, layout, axes.block, dot + names.qkv, stream, axes);
    attend.push_back(attention(a));
    attend.push_back(linear(names.projection, layout.along(axes.attention_rows),
                            joined(heads, a.value_columns), choice.output_deviation));
    const Dimension hidden = layout.along(axes.hidden);
    std::vector<Layer> mlp{norm(names.norm2)};
    if (choice.swiglu) {
      Layer gate = linear(beside(names.up, "gate_proj"), hidden, stream, kDeviation);
      mlp.push_back(swiglu(std::move(gate), linear(names.up, hidden, stream, kDeviation)));
    } else {
      mlp.push_back(linear(names.up, hidden, stream, kDeviation));
      mlp.push_back(gelu_layer(choice.tanh_gelu));
    }
    mlp.push_back(linear(names.down, layout.along(axes.mlp_rows), hidden, choice.output_deviation));
    model.blocks.push_back(make_block(layout, axes.block,
                                      {residual(std::move(attend), axes.attention_rows),
                                       residual(std::move(mlp), axes.mlp_rows)}));
    if (choice.causal) {
      model.blocks.back().cached = [a](const Submodel& submodel) { return a.cached(submodel); };
    }
    model.transformer.push_back(axes);
    for (const int axis : {axes.heads, axes.attention_rows, axes.hidden, axes.mlp_rows}) {
      model.masked.push_back({axis, axes.block});
    }
    model.depth.push_back(axes.block);
    if (!head) continue;
    if (const auto exit = exit_due(model, choice.depth, choice.exits)) classify(*exit, *exit + ".");
  }
  if (head) classify("head", "");
}

Layer token_stem(const TransformerChoice& choice, Layout& layout, int block,
                 const std::string& tokens, const std::string& positions, int vocabulary_axis,
                 int embed_axis, int* weight_entry) {
  const Init normal{Init::Rule::normal, kDeviation};
  const int weight = layout.add_entry({tokens + ".weight",
                                       Kind::trainable,
                                       block,
                                       {layout.along(vocabulary_axis), layout.along(embed_axis)},
                                       normal,
                                       /*product=*/true});
  if (weight_entry != nullptr) *weight_entry = weight;
  const int place =
      choice.rotary
          ? -1
          : layout.add_entry({positions,
                              Kind::trainable,
                              block,
                              {Layout::constant(choice.positions), layout.along(embed_axis)},
                              normal});
  const std::int64_t most = choice.positions;
  const std::int64_t masked = choice.masked;
  const std::int64_t mask_token = choice.mask_token;
  Layer layer;
  layer.forward = [=](const Parameters& p, const at::Tensor& x, Context& context) {
    if (masked > 0) context.hidden = x.flatten().eq(mask_token).nonzero().squeeze(1);
    const double factor = stream_scaler(p.submodel(), embed_axis, context);
    at::Tensor y = embed_tokens(x, p.weight(weight), factor);
    if (place < 0) return y;
    const std::int64_t first = context.cache ? context.cache->length() : 0;
    ESPALIER_CHECK(first + x.size(1) <= most, "{} positions from {} on of {}", x.size(1), first,
                   most);
    at::Tensor positions = x.size(1) == most ? p[place] : p[place].narrow(0, first, x.size(1));
    return y.add_(factor == 1 ? positions : positions * factor);
  };
  layer.cost = [=](CostTape& tape) {
    const std::int64_t units = tape.submodel.width(embed_axis);
    tape.shape.push_back(units);
    NodeCost node;
    node.forward_flops = place >= 0 ? tape.elements() : 0;
    node.output_bytes = tape.elements() * kFloatBytes;
    node.weight_bytes = node.output_bytes;  // the rows that are looked up
    node.trains = tape.trains(weight);
    node.runs_backward = tape.trains(place);
    node.saves_input = true;
    node.input_gradient = false;
    node.backward_scratch_bytes = (place >= 0 ? most * units * kFloatBytes : 0) + kVectorBytes;
    node.saved_bytes = tape.batch * masked * static_cast<std::int64_t>(sizeof(std::int64_t));
    if (masked > 0) node.forward_scratch_bytes = stream_rows(tape);  // which tokens are hidden
    tape.add(node);
  };
  return layer;
}

std::vector<Layer> token_head(const TransformerChoice& choice, Layout& layout, int block,
                              const std::string& prefix, int embed_axis, int class_axis) {
  Layer pick = hidden_tokens(choice.masked);
  Layer norm = stream_norm(choice, layout, block, prefix + "norm", embed_axis);
  Layer out = dense(layout, block, prefix + "head", layout.along(class_axis),
                    layout.along(embed_axis), true, kDeviation);
  return {std::move(pick), std::move(norm), std::move(out)};
}

void add_classifying_transformer(Model& model, Layout& layout, const Config& config,
                                 const TransformerChoice& choice, Pooling pooling, int embed_axis) {
  const BlockNames names{"blocks", "norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"};
  const auto pooled = [&](int block, const std::string& prefix) {
    std::vector<Layer> layers;
    if (pooling == Pooling::token) layers.push_back(first_token());
    layers.push_back(stream_norm(choice, layout, block, prefix + "norm", embed_axis));
    if (pooling == Pooling::mean) layers.push_back(mean_token());
    return layers;
  };
  if (config.integer("model.projection") > 0 && choice.exits == 1) {
    add_transformer_blocks(model, layout, choice, names, embed_axis);
    add_head(
        model, layout, config, [&](int block) { return pooled(block, ""); }, "head", embed_axis);
    return;
  }
  add_transformer_blocks(
      model, layout, choice, names, embed_axis, [&](int block, const std::string& prefix) {
        std::vector<Layer> layers = pooled(block, prefix);
        layers.push_back(dense(layout, block, prefix + "head", layout.along(model.class_axis),
                               layout.along(embed_axis), true, kDeviation));
        return layers;
      });
}

Pooling pooling_choice(const Config& config) {
  return config.text("model.pooling") == "mean" ? Pooling::mean : Pooling::token;
}

}  // namespace espalier
