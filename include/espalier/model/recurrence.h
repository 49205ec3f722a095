#pragma once
// One LSTM layer over all steps of a text (Hochreiter and Schmidhuber 1997; forget gate of Gers et
// al. 2000) as one operation with its own backward pass: one matrix product for each weight's
// gradient instead of one for each step, and memory that the cost model knows to the byte.

#include <ATen/ATen.h>

#include <cstdint>

#include "espalier/model/model.h"

namespace espalier {

/// The rows of each are those of the input, forget, cell and output gate, in PyTorch's order.
struct LstmWeights {
  Weight input;   ///< [4 x units, in]
  Weight hidden;  ///< [4 x units, units]
  at::Tensor input_bias;
  at::Tensor hidden_bias;
};

/// x [batch, steps, in]; returns the units' outputs [batch, steps, units], from a state of zeros.
/// What the gates read is multiplied by the factors: x by `input_factor`, the outputs of the step
/// before by `hidden_factor`.
at::Tensor lstm(const at::Tensor& x, const LstmWeights& weights, double input_factor = 1,
                double hidden_factor = 1);

/// Adds the nodes of such a layer to the tape and updates the tape's shape, [steps, in].
void add_lstm_cost(CostTape& tape, std::int64_t units, bool trains_weights);

}  // namespace espalier
