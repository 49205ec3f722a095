#include "espalier/model/cost.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/model/geometry.h"

namespace espalier {
namespace {

constexpr std::int64_t kFloatBytes = sizeof(float);
// Scalars (loss, its seed gradient, the norm of a gradient) and the like.
constexpr std::int64_t kSmallTensors = 1024;

/// Bytes held at a time, and the most there ever were.
class Walk {
 public:
  void hold(std::int64_t bytes) {
    live_ += bytes;
    peak_ = std::max(peak_, live_);
  }
  void release(std::int64_t bytes) { live_ -= bytes; }
  /// Held for a moment.
  void touch(std::int64_t bytes) { peak_ = std::max(peak_, live_ + bytes); }
  std::int64_t peak() const { return peak_; }

 private:
  std::int64_t live_ = 0;
  std::int64_t peak_ = 0;
};

/// Log-softmax and negative log-likelihood as two more layers: the first keeps its output, the
/// second is scalar.
void add_loss(std::vector<LayerCost>& layers, std::int64_t batch, std::int64_t classes) {
  LayerCost softmax;
  softmax.output_bytes = batch * classes * kFloatBytes;
  softmax.saves_output = true;
  layers.push_back(softmax);
  LayerCost likelihood;
  likelihood.output_bytes = kFloatBytes;
  likelihood.saves_input = true;
  layers.push_back(likelihood);
}

/// Peak bytes of one pass forward and back. An activation lives until the next layer has read it,
/// or, where one of its two neighbours saves it, until the backward pass has passed the earlier of
/// them; a gradient until the layer before it has its own. The batch itself (bytes before the first
/// layer) is held throughout.
std::int64_t activation_peak(std::int64_t batch_bytes, const std::vector<LayerCost>& layers) {
  Walk walk;
  walk.hold(batch_bytes);
  const auto count = static_cast<int>(layers.size());
  // Which buffer (numbered by the layer that made it, -1 the batch) each layer writes, and who
  // keeps it longest.
  std::vector<int> buffer(layers.size());
  std::vector<int> keeper(layers.size(), -1);
  const auto input_of = [&](int i) { return i == 0 ? -1 : buffer[i - 1]; };
  for (int i = count - 1; i >= 0; --i) buffer[i] = i;
  for (int i = 0; i < count; ++i) {
    if (layers[i].in_place) buffer[i] = input_of(i);
  }
  for (int i = count - 1; i >= 0; --i) {
    if (layers[i].saves_input && input_of(i) >= 0) keeper[input_of(i)] = i;
    if (layers[i].saves_output && buffer[i] >= 0) keeper[buffer[i]] = i;
  }
  const auto last_reader = [&](int b) {
    int reader = b;
    for (int i = b + 1; i < count; ++i) {
      if (input_of(i) == b) reader = i;
    }
    return reader;
  };

  for (int i = 0; i < count; ++i) {
    const LayerCost& layer = layers[i];
    if (!layer.in_place) walk.hold(layer.output_bytes);
    walk.hold(layer.saved_bytes);
    walk.touch(layer.forward_scratch_bytes);
    const int input = input_of(i);
    if (input >= 0 && keeper[input] < 0 && last_reader(input) == i) {
      walk.release(layers[input].output_bytes);
    }
  }
  for (int i = count - 1; i >= 0; --i) {
    const LayerCost& layer = layers[i];
    const std::int64_t input_gradient =
        layer.input_gradient && i > 0 ? layers[i - 1].output_bytes : 0;
    if (i == count - 1) walk.hold(layer.output_bytes);
    walk.hold(input_gradient);
    walk.touch(layer.backward_scratch_bytes);
    walk.release(layer.output_bytes);
    walk.release(layer.saved_bytes);
    for (int b = 0; b < count; ++b) {
      if (keeper[b] == i) walk.release(layers[b].output_bytes);
    }
  }
  return walk.peak();
}

}  // namespace

TrainingCost training_cost(const Model& model, const Submodel& submodel, std::int64_t batch,
                           int optimizer_copies, std::int64_t extra_bytes) {
  TrainingCost cost;
  std::vector<LayerCost> layers;
  std::vector<std::int64_t> shape = model.shape.sample;
  std::int64_t batch_bytes = batch * static_cast<std::int64_t>(sizeof(std::int64_t));  // labels
  std::int64_t sample = kFloatBytes;
  for (const std::int64_t size : shape) sample *= size;
  batch_bytes += batch * sample;
  for (std::size_t i = 0; i < model.blocks.size(); ++i) {
    if (!submodel.has_block(static_cast<int>(i))) continue;
    BlockCost block = model.blocks[i].cost(submodel, batch, shape);
    cost.parameters += block.parameters;
    cost.forward_flops += block.forward_flops;
    std::move(block.layers.begin(), block.layers.end(), std::back_inserter(layers));
  }
  cost.step_flops = 3 * cost.forward_flops;
  add_loss(layers, batch, model.shape.classes);

  const Geometry geometry(model.layout, submodel, Packing::aligned);
  const std::int64_t trained = geometry.kind_range(Kind::trainable).size();
  cost.message_bytes = geometry.count(Kind::trainable) * kFloatBytes;
  cost.model_bytes = (geometry.size() + (1 + optimizer_copies) * trained) * kFloatBytes;
  cost.activation_bytes = activation_peak(batch_bytes, layers) + kSmallTensors;
  cost.peak_bytes = cost.message_bytes + cost.model_bytes + cost.activation_bytes + extra_bytes;
  return cost;
}

}  // namespace espalier
