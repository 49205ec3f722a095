#pragma once
// The cost model: parameters, FLOPs and bytes of training one submodel, from the kept widths and
// the batch alone. Its memory figure is an upper bound on what a client's memory scope measures
// (measured <= predicted <= 1.25 x measured), so a client whose submodel was chosen by it never
// runs out of memory.

#include <array>
#include <cstdint>
#include <vector>

#include "espalier/model/model.h"

namespace espalier {

/// The part of one kept block in a step.
struct BlockCost {
  int block = 0;
  std::int64_t parameters = 0;  ///< trainable values
  std::int64_t forward_flops = 0;
  std::array<std::int64_t, kWorks> step_flops{};  ///< of one batch, by kind of Work
  std::int64_t moved_bytes = 0;                   ///< of one batch
  std::int64_t weight_bytes = 0;                  ///< of its entries of every kind, aligned
  std::int64_t saved_bytes = 0;  ///< saved from its forward to its backward pass, its input
                                 ///< included
};

struct TrainingCost {
  std::int64_t parameters = 0;  ///< trainable values
  /// Forward and backward (2 x forward, 1 x if no weight is trained) of one batch.
  std::int64_t step_flops = 0;
  std::int64_t forward_flops = 0;
  std::int64_t message_bytes = 0;  ///< dense payload of the trained values, one direction
  std::int64_t model_bytes = 0;    ///< weights, gradients, optimiser state
  std::int64_t activation_bytes =
      0;  ///< peak of batch, activations, their gradients and kernels' buffers
  std::int64_t peak_bytes = 0;    ///< all memory of a client: the bound
  std::int64_t input_bytes = 0;   ///< of one batch at the input of the first kept block
  std::int64_t output_bytes = 0;  ///< of one batch at the output of the last kept block
  std::vector<BlockCost> blocks;  ///< in order
};

/// `optimizer_copies`: flat buffers of the optimiser beside weights and gradients (SGD 0, momentum
/// 1); `extra_bytes`: further memory of a local objective. The peak depends on the instruction set
/// in use (run.isa), because oneDNN pads channels to its vectors. `stage`: the trained entries, if
/// not all; then only the answering classifier is computed. A submodel without the first blocks
/// (part_of) is charged for a batch of their outputs and its gradient; a submodel without a
/// classifier has no loss, and is charged for the gradient of its output.
TrainingCost training_cost(const Model& model, const Submodel& submodel, std::int64_t batch,
                           int optimizer_copies, std::int64_t extra_bytes = 0,
                           const Stage* stage = nullptr);

/// The same for one pass without gradients, as of a frozen copy of the weights: step_flops are
/// those of the forward pass, activation_bytes its peak with the batch, model_bytes the weights.
TrainingCost forward_cost(const Model& model, const Submodel& submodel, std::int64_t batch);

}  // namespace espalier
