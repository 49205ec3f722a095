#include "espalier/model/cost.h"

#include <algorithm>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/buffer_layout.h"

namespace espalier {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);
// Scalars such as the loss, its first gradient and the norm of a gradient.
constexpr std::int64_t kScalarBytes = 1024;

/// The backward pass costs two forward passes, one for the inputs' gradients and one for the
/// weights'.
std::int64_t passes(const NodeCost& node) {
  const bool is_frozen = node.weight_bytes > 0 && !node.trains;
  return node.runs_backward ? is_frozen ? 2 : 3 : 1;
}

/// Counts the holders of each piece of memory, as the reference counts of tensors do.
class Walk {
 public:
  /// A new piece with one holder.
  int make(std::int64_t bytes) {
    pieces_.push_back({bytes, 0});
    hold(static_cast<int>(pieces_.size()) - 1);
    return static_cast<int>(pieces_.size()) - 1;
  }
  void hold(int piece) {
    if (pieces_[piece].holders++ == 0) grow(pieces_[piece].bytes);
  }
  void drop(int piece) {
    if (--pieces_[piece].holders == 0) live_ -= pieces_[piece].bytes;
  }
  int holders(int piece) const { return pieces_[piece].holders; }
  void grow(std::int64_t bytes) {
    live_ += bytes;
    peak_ = std::max(peak_, live_);
  }
  void shrink(std::int64_t bytes) { live_ -= bytes; }
  /// Allocated and freed at once.
  void touch(std::int64_t bytes) { peak_ = std::max(peak_, live_ + bytes); }
  std::int64_t peak() const { return peak_; }

 private:
  struct Piece {
    std::int64_t bytes;
    int holders;
  };
  std::vector<Piece> pieces_;
  std::int64_t live_ = 0;
  std::int64_t peak_ = 0;
};

void add_one_loss(CostTape& tape, std::int64_t rows, std::int64_t classes) {
  NodeCost softmax;
  softmax.output_bytes = rows * classes * kFloatBytes;
  softmax.saves_output = true;
  tape.add(softmax);
  NodeCost likelihood;
  likelihood.output_bytes = kFloatBytes;
  likelihood.saves_input = true;
  tape.add(likelihood);
}

/// Log-softmax and negative log-likelihood as two more nodes for each classifier: the first keeps
/// its output, the second is scalar; then their sum.
void add_loss(CostTape& tape, const std::vector<int>& heads, std::int64_t rows,
              std::int64_t classes) {
  std::vector<int> losses;
  for (const int head : heads) {
    tape.current = head;
    add_one_loss(tape, rows, classes);
    losses.push_back(tape.current);
  }
  if (losses.size() == 1) return;
  NodeCost sum;
  sum.output_bytes = kFloatBytes;
  sum.inputs = std::move(losses);
  sum.passes_gradient = true;
  tape.add(sum);
}

/// Peak bytes of one pass forward and back. An output is held until its last reader has run, and
/// while a node has it saved for its backward pass; a gradient until its node has run backward. The
/// batch is held throughout, and so is a first gradient that was received in a message.
std::int64_t activation_peak(std::int64_t batch_bytes, const std::vector<NodeCost>& nodes,
                             bool has_loss) {
  Walk walk;
  const int batch = walk.make(batch_bytes);
  const auto count = static_cast<int>(nodes.size());
  std::vector<int> piece(nodes.size());
  std::vector<int> last_reader(nodes.size(), -1);
  for (int i = 0; i < count; ++i) {
    for (const int input : nodes[i].inputs) {
      if (input >= 0) last_reader[input] = i;
    }
  }
  const auto piece_of = [&](int node) { return node < 0 ? batch : piece[node]; };
  const auto saved = [&](int node, auto&& act) {
    if (!nodes[node].runs_backward) return;
    if (nodes[node].saves_input) {
      for (const int input : nodes[node].inputs) act(piece_of(input));
    }
    if (nodes[node].saves_output) act(piece[node]);
  };

  for (int i = 0; i < count; ++i) {
    const NodeCost& node = nodes[i];
    if (node.in_place) {
      piece[i] = piece_of(node.inputs[0]);
      walk.hold(piece[i]);
    } else {
      piece[i] = walk.make(node.output_bytes);
    }
    saved(i, [&](int p) { walk.hold(p); });
    // What it would save is made even so.
    if (node.runs_backward) walk.grow(node.saved_bytes);
    walk.touch(node.forward_scratch_bytes + (node.runs_backward ? 0 : node.saved_bytes));
    for (const int input : node.inputs) {
      if (input >= 0 && last_reader[input] == i) {
        walk.drop(piece[input]);
        last_reader[input] = -1;
      }
    }
  }

  std::vector<int> gradient(nodes.size(), -1);
  gradient[count - 1] = walk.make(nodes[count - 1].output_bytes);
  if (!has_loss) walk.hold(gradient[count - 1]);
  for (int i = count - 1; i >= 0; --i) {
    const NodeCost& node = nodes[i];
    if (!node.runs_backward) continue;
    if (gradient[i] >= 0) {
      std::vector<std::pair<int, int>> made;  // input, its gradient
      for (const int input : node.inputs) {
        if (input < 0 || !node.input_gradient || !nodes[input].runs_backward) continue;
        made.emplace_back(input, gradient[i]);
        if (node.passes_gradient) {
          walk.hold(gradient[i]);
        } else {
          made.back().second = walk.make(nodes[input].output_bytes);
        }
      }
      walk.touch(node.backward_scratch_bytes);
      for (const auto& [input, own] : made) {
        int& sum = gradient[input];
        if (sum < 0) {
          sum = own;
        } else if (walk.holders(sum) == 1) {
          walk.drop(own);  // added in place
        } else {
          const int added = walk.make(nodes[input].output_bytes);
          walk.drop(own);
          walk.drop(sum);
          sum = added;
        }
      }
      walk.drop(gradient[i]);
    }
    saved(i, [&](int p) { walk.drop(p); });
    walk.shrink(node.saved_bytes);
  }
  return walk.peak();
}

BlockCost block_weights(const BufferLayout& buffer_layout, int block) {
  BlockCost cost;
  cost.block = block;
  const Layout& layout = buffer_layout.layout();
  for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
    const bool trained = layout.entries[entry].kind == Kind::trainable;
    if (trained && layout.entries[entry].block == block) {
      cost.parameters += buffer_layout.place(static_cast<int>(entry)).count;
    }
  }
  for (int kind = 0; kind < kKinds; ++kind) {
    cost.weight_bytes += buffer_layout.segment(block, static_cast<Kind>(kind)).size() * kFloatBytes;
  }
  return cost;
}

/// Bytes that each node saves for the backward pass; a tensor that several nodes save counts for
/// the first.
std::vector<std::int64_t> saved_bytes(std::int64_t batch_bytes,
                                      const std::vector<NodeCost>& nodes) {
  std::vector<int> owner(nodes.size());  // of the memory of a node's output; -1 the batch
  std::vector<bool> counted(nodes.size() + 1, false);
  std::vector<std::int64_t> bytes(nodes.size(), 0);
  const auto owner_of = [&](int node) { return node < 0 ? -1 : owner[node]; };
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const NodeCost& node = nodes[i];
    owner[i] = node.in_place ? owner_of(node.inputs[0]) : static_cast<int>(i);
    const auto keep = [&](int piece) {
      if (counted[static_cast<std::size_t>(piece + 1)]) return;
      counted[static_cast<std::size_t>(piece + 1)] = true;
      bytes[i] += piece < 0 ? batch_bytes : nodes[static_cast<std::size_t>(piece)].output_bytes;
    };
    if (node.saves_input) {
      for (const int input : node.inputs) keep(owner_of(input));
    }
    if (node.saves_output) keep(owner[i]);
    bytes[i] += node.saved_bytes;
  }
  return bytes;
}

/// Bytes that each node reads and writes in one pass forward and back. Every tensor counts once for
/// each kernel that reads or writes it; scratch of kernels does not count, because it depends on
/// the instruction set.
std::vector<std::int64_t> moved_bytes(std::int64_t batch_bytes,
                                      const std::vector<NodeCost>& nodes) {
  std::vector<std::int64_t> moved;
  for (const NodeCost& node : nodes) {
    std::int64_t inputs = 0;
    for (const int input : node.inputs) {
      inputs += input < 0 ? batch_bytes : nodes[static_cast<std::size_t>(input)].output_bytes;
    }
    const bool view = node.in_place && node.forward_flops == 0;
    const std::int64_t forward = view ? 0 : inputs + node.weight_bytes + node.output_bytes;
    // The gradients of the input and of the weights, each from the output's gradient. The weights'
    // gradient is charged as an addition, as in every part of a batch but the first.
    std::int64_t backward = 0;
    if (node.runs_backward && node.input_gradient && !node.passes_gradient) {
      backward += node.output_bytes + node.weight_bytes + inputs;
    }
    if (node.weight_bytes > 0 && node.trains) {
      backward += node.output_bytes + 2 * node.weight_bytes;
    }
    if (backward > 0) {
      backward += (node.saves_input ? inputs : 0) + (node.saves_output ? node.output_bytes : 0);
    }
    moved.push_back(forward + backward + 2 * node.saved_bytes);
  }
  return moved;
}

/// A tape at the first block that the submodel keeps. It is empty if that block reads the samples;
/// else it has a node for the input, which gets a gradient.
CostTape begin_tape(const Model& model, const Submodel& submodel, std::int64_t batch,
                    const Stage* stage) {
  const Layout& layout = stage == nullptr ? *model.layout : *stage->layout;
  CostTape tape{submodel, batch, model.shape.sample, {}, -1, stage, &layout};
  if (submodel.has_block(0) || model.is_ensemble) return tape;
  for (int i = 0; i < submodel.blocks() && !submodel.has_block(i); ++i) {
    if (!model.is_exit(i)) model.blocks[static_cast<std::size_t>(i)].cost(tape);
  }
  tape.nodes.clear();
  tape.current = -1;
  NodeCost input;
  input.in_place = true;
  input.runs_backward = true;
  input.output_bytes = tape.elements() * kFloatBytes;
  tape.add(input);
  return tape;
}

}  // namespace

TrainingCost training_cost(const Model& model, const Submodel& submodel, std::int64_t batch,
                           int optimizer_copies, std::int64_t extra_bytes, const Stage* stage) {
  CostTape tape = begin_tape(model, submodel, batch, stage);
  const bool takes_tokens = tape.nodes.empty() && model.shape.vocabulary > 0;
  const std::int64_t value_bytes = takes_tokens ? sizeof(std::int64_t) : kFloatBytes;
  const std::int64_t rows = batch * model.shape.targets();
  const std::int64_t labels = rows * static_cast<std::int64_t>(sizeof(std::int64_t));
  const BufferLayout buffer_layout(stage == nullptr ? model.layout : stage->layout, submodel,
                                   Packing::aligned);
  TrainingCost cost;
  cost.input_bytes = tape.elements() * value_bytes;
  std::vector<std::size_t> node_blocks;  // index into cost.blocks
  std::vector<int> heads;                // nodes of the logits
  const int answer = model.answer(submodel);
  for (int i = 0; i < static_cast<int>(model.blocks.size()); ++i) {
    if (!submodel.has_block(i) || (answer >= 0 && i > answer)) continue;
    if (stage != nullptr && model.is_exit(i) && i != answer) continue;
    const int stream = tape.current;
    const std::vector<std::int64_t> shape = tape.shape;
    model.blocks[static_cast<std::size_t>(i)].cost(tape);
    if (model.is_exit(i)) {
      heads.push_back(tape.current);
      if (i != answer) {
        tape.current = stream;
        tape.shape = shape;
      }
    }
    node_blocks.resize(tape.nodes.size(), cost.blocks.size());
    cost.blocks.push_back(block_weights(buffer_layout, i));
  }
  ESPALIER_CHECK(!cost.blocks.empty(), "a model keeps at least one block");
  cost.output_bytes = tape.elements() * kFloatBytes;
  const std::vector<std::int64_t> saved = saved_bytes(cost.input_bytes, tape.nodes);
  for (std::size_t i = 0; i < tape.nodes.size(); ++i) {
    const NodeCost& node = tape.nodes[i];
    BlockCost& block = cost.blocks[node_blocks[i]];
    cost.forward_flops += node.forward_flops;
    block.forward_flops += node.forward_flops;
    const std::int64_t step = passes(node) * node.forward_flops;
    cost.step_flops += step;
    block.step_flops[static_cast<std::size_t>(node.work)] += step;
    block.saved_bytes += saved[i];
  }
  if (!heads.empty()) add_loss(tape, heads, rows, model.shape.classes);
  node_blocks.resize(tape.nodes.size(), cost.blocks.size() - 1);
  const std::vector<std::int64_t> moved = moved_bytes(cost.input_bytes, tape.nodes);
  for (std::size_t i = 0; i < tape.nodes.size(); ++i) {
    cost.blocks[node_blocks[i]].moved_bytes += moved[i];
  }
  // Gradients are zeroed; the optimiser reads them, and reads and writes weights and state.
  for (BlockCost& block : cost.blocks) {
    const std::int64_t trained = buffer_layout.segment(block.block, Kind::trainable).size();
    block.moved_bytes += (4 + 2 * optimizer_copies) * trained * kFloatBytes;
  }

  const std::int64_t trained = buffer_layout.kind_range(Kind::trainable).size();
  cost.parameters = buffer_layout.count(Kind::trainable);
  // Weights that a stage freezes are sent too.
  const BufferLayout own(model.layout, submodel, Packing::dense);
  cost.message_bytes = own.count(Kind::trainable) * kFloatBytes;
  cost.model_bytes = (buffer_layout.size() + (1 + optimizer_copies) * trained) * kFloatBytes;
  cost.activation_bytes =
      activation_peak(cost.input_bytes + labels, tape.nodes, !heads.empty()) + kScalarBytes;
  cost.peak_bytes = cost.message_bytes + cost.model_bytes + cost.activation_bytes + extra_bytes;
  return cost;
}

TrainingCost forward_cost(const Model& model, const Submodel& submodel, std::int64_t batch) {
  CostTape tape = begin_tape(model, submodel, batch, nullptr);
  const bool takes_tokens = tape.nodes.empty() && model.shape.vocabulary > 0;
  const std::int64_t value_bytes = takes_tokens ? sizeof(std::int64_t) : kFloatBytes;
  const BufferLayout buffer_layout(model.layout, submodel, Packing::aligned);
  TrainingCost cost;
  cost.input_bytes = tape.elements() * value_bytes;
  const int answer = model.answer(submodel);
  std::vector<std::size_t> first_nodes;
  for (int i = 0; i < static_cast<int>(model.blocks.size()); ++i) {
    if (!submodel.has_block(i) || (answer >= 0 && i > answer)) continue;
    if (model.is_exit(i) && i != answer) continue;
    first_nodes.push_back(tape.nodes.size());
    model.blocks[static_cast<std::size_t>(i)].cost(tape);
    cost.blocks.push_back(block_weights(buffer_layout, i));
  }
  cost.output_bytes = tape.elements() * kFloatBytes;
  for (NodeCost& node : tape.nodes) {
    node.runs_backward = node.trains = false;
    // What a layer would save is made, and freed at once.
    node.forward_scratch_bytes += node.saved_bytes;
    node.saved_bytes = 0;
  }
  const std::vector<std::int64_t> moved = moved_bytes(cost.input_bytes, tape.nodes);
  std::size_t place = 0;
  for (std::size_t i = 0; i < tape.nodes.size(); ++i) {
    while (place + 1 < first_nodes.size() && i >= first_nodes[place + 1]) ++place;
    const NodeCost& node = tape.nodes[i];
    BlockCost& block = cost.blocks[place];
    block.forward_flops += node.forward_flops;
    block.step_flops[static_cast<std::size_t>(node.work)] += node.forward_flops;
    block.moved_bytes += moved[i];
    cost.forward_flops += node.forward_flops;
  }
  cost.step_flops = cost.forward_flops;
  cost.parameters = buffer_layout.count(Kind::trainable);
  cost.model_bytes = buffer_layout.size() * kFloatBytes;
  cost.activation_bytes = activation_peak(cost.input_bytes, tape.nodes, /*has_loss=*/false);
  cost.peak_bytes = cost.model_bytes + cost.activation_bytes;
  return cost;
}

}  // namespace espalier
