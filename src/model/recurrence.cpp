#include "espalier/model/recurrence.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "weight_target.h"

namespace espalier {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t kFloatBytes = sizeof(float);
constexpr std::int64_t kGates = 4;

at::Tensor rows_of(const at::Tensor& x) { return x.view({-1, x.size(-1)}); }

/// Views of one step's gates, [batch, units] each.
struct Gates {
  Gates(const at::Tensor& gates, std::int64_t step) : all(gates.select(1, step)) {
    const std::int64_t units = all.size(1) / kGates;
    const auto gate = [&](std::int64_t n) { return all.narrow(1, n * units, units); };
    input = gate(0);
    forget = gate(1);
    cell = gate(2);
    output = gate(3);
  }
  at::Tensor all, input, forget, cell, output;
};

/// What a pass computes, [batch, steps, ...].
struct Pass {
  at::Tensor gates;  ///< after their sigmoid or tanh
  at::Tensor cells;
  at::Tensor outputs;
};

Pass run_forward(const at::Tensor& x, const at::Tensor& input_weight,
                 const at::Tensor& hidden_weight, const at::Tensor& input_bias,
                 const at::Tensor& hidden_bias, double input_factor, double hidden_factor) {
  const std::int64_t batch = x.size(0);
  const std::int64_t steps = x.size(1);
  const std::int64_t units = hidden_weight.size(1);
  Pass pass;
  pass.gates = at::empty({batch, steps, kGates * units}, x.options());
  at::Tensor rows = rows_of(pass.gates);
  at::addmm_out(rows, input_bias + hidden_bias, rows_of(x), input_weight.t(), 1, input_factor);
  pass.cells = at::empty({batch, steps, units}, x.options());
  pass.outputs = at::empty({batch, steps, units}, x.options());
  const at::Tensor transposed = hidden_weight.t();
  for (std::int64_t t = 0; t < steps; ++t) {
    Gates gate(pass.gates, t);
    if (t > 0) gate.all.addmm_(pass.outputs.select(1, t - 1), transposed, 1, hidden_factor);
    gate.all.narrow(1, 0, 2 * units).sigmoid_();  // input and forget
    gate.cell.tanh_();
    gate.output.sigmoid_();
    at::Tensor cell = pass.cells.select(1, t);
    at::mul_out(cell, gate.input, gate.cell);
    if (t > 0) cell.addcmul_(gate.forget, pass.cells.select(1, t - 1));
    at::Tensor output = pass.outputs.select(1, t);
    at::tanh_out(output, cell).mul_(gate.output);
  }
  return pass;
}

/// From the outputs' gradient to that of the sums that enter the gates, which overwrites the gates.
void run_backward(const at::Tensor& gates, const at::Tensor& cells, const at::Tensor& gradient,
                  const at::Tensor& hidden_weight, double hidden_factor) {
  const auto sizes = {cells.size(0), cells.size(2)};
  at::Tensor of_output = at::empty(sizes, cells.options());
  at::Tensor of_cell = at::zeros(sizes, cells.options());
  at::Tensor a = at::empty(sizes, cells.options());
  at::Tensor b = at::empty(sizes, cells.options());
  at::Tensor later;  // the gates of the step after
  for (std::int64_t t = cells.size(1) - 1; t >= 0; --t) {
    Gates gate(gates, t);
    if (later.defined()) {
      at::addmm_out(of_output, gradient.select(1, t), later, hidden_weight, 1, hidden_factor);
    } else {
      of_output.copy_(gradient.select(1, t));
    }
    at::tanh_out(a, cells.select(1, t));
    at::mul_out(b, of_output, gate.output);
    of_cell.add_(at::tanh_backward_out(b, b, a));
    at::sigmoid_backward_out(gate.output, a.mul_(of_output), gate.output);
    at::mul_out(a, of_cell, gate.cell);
    at::mul_out(b, of_cell, gate.input);
    at::sigmoid_backward_out(gate.input, a, gate.input);
    at::tanh_backward_out(gate.cell, b, gate.cell);
    if (t > 0) {
      at::mul_out(a, of_cell, cells.select(1, t - 1));
      of_cell.mul_(gate.forget);
      at::sigmoid_backward_out(gate.forget, a, gate.forget);
    } else {
      gate.forget.zero_();  // it multiplies a state of zeros
    }
    later = gate.all;
  }
}

struct Lstm : torch::autograd::Function<Lstm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& input_weight, const at::Tensor& hidden_weight,
                            const at::Tensor& input_bias, const at::Tensor& hidden_bias,
                            const std::optional<at::Tensor>& input_place,
                            const std::optional<at::Tensor>& hidden_place, double input_factor,
                            double hidden_factor) {
    const Pass pass = run_forward(x, input_weight, hidden_weight, input_bias, hidden_bias,
                                  input_factor, hidden_factor);
    context->save_for_backward(
        {x, input_weight, hidden_weight, pass.gates, pass.cells, pass.outputs});
    context->saved_data["input_place"] = input_place.value_or(at::Tensor());
    context->saved_data["hidden_place"] = hidden_place.value_or(at::Tensor());
    context->saved_data["input_factor"] = input_factor;
    context->saved_data["hidden_factor"] = hidden_factor;
    return pass.outputs;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& input_weight = saved[1];
    const at::Tensor& hidden_weight = saved[2];
    const at::Tensor& gates = saved[3];
    const at::Tensor& outputs = saved[5];
    const double input_factor = context->saved_data["input_factor"].toDouble();
    const double hidden_factor = context->saved_data["hidden_factor"].toDouble();
    run_backward(gates, saved[4], gradients[0], hidden_weight, hidden_factor);
    const at::Tensor rows = rows_of(gates);
    variable_list result(9);
    if (context->needs_input_grad(0)) {
      result[0] = at::empty(x.sizes(), x.options());
      at::Tensor of_input = rows_of(result[0]);
      at::addmm_out(of_input, of_input, rows, input_weight, 0, input_factor);
    }
    if (context->needs_input_grad(1)) {
      const WeightTarget target(input_weight, context->saved_data["input_place"].toTensor());
      target.add_product(rows.t(), rows_of(x), input_factor);
      result[1] = target.own;
    }
    if (context->needs_input_grad(3) || context->needs_input_grad(4)) {
      result[3] = result[4] = rows.sum(0);
    }
    if (context->needs_input_grad(2)) {
      const WeightTarget target(hidden_weight, context->saved_data["hidden_place"].toTensor());
      // Row by row the gates read the outputs one row before, except in the first step of each
      // text, which reads zeros.
      gates.select(1, 0).zero_();
      const std::int64_t pairs = rows.size(0) - 1;
      target.add_product(rows.narrow(0, 1, pairs).t(), rows_of(outputs).narrow(0, 0, pairs),
                         hidden_factor);
      result[2] = target.own;
    }
    return result;
  }
};

}  // namespace

at::Tensor lstm(const at::Tensor& x, const LstmWeights& w, double input_factor,
                double hidden_factor) {
  const at::Tensor& a = w.input.value;
  const at::Tensor& b = w.hidden.value;
  const bool trains = x.requires_grad() || a.requires_grad() || b.requires_grad() ||
                      w.input_bias.requires_grad() || w.hidden_bias.requires_grad();
  if (c10::GradMode::is_enabled() && trains) {
    // Autograd takes no undefined tensors, which frozen weights have for gradients.
    const auto place = [](const Weight& weight) {
      return weight.gradient.defined() ? std::optional(weight.gradient) : std::nullopt;
    };
    return Lstm::apply(x.contiguous(), a, b, w.input_bias, w.hidden_bias, place(w.input),
                       place(w.hidden), input_factor, hidden_factor);
  }
  return run_forward(x.contiguous(), a, b, w.input_bias, w.hidden_bias, input_factor, hidden_factor)
      .outputs;
}

void add_lstm_cost(CostTape& tape, std::int64_t units, bool trains_weights) {
  const std::int64_t steps = tape.shape[0];
  const std::int64_t in = tape.shape[1];
  const std::int64_t rows = tape.batch * steps;
  const std::int64_t input_bytes = rows * in * kFloatBytes;
  tape.shape[1] = units;
  NodeCost products;
  products.work = Work::product;
  // The first step has no step before it.
  products.forward_flops = kGates * units * (rows * (2 * in + 1) + (rows - tape.batch) * 2 * units);
  products.weight_bytes = kGates * units * (in + units) * kFloatBytes;
  products.output_bytes = rows * units * kFloatBytes;
  products.trains = trains_weights;
  products.saves_input = true;
  products.saves_output = true;
  products.saved_bytes = rows * (kGates + 1) * units * kFloatBytes;  // gates and cells
  const std::int64_t bias_bytes = kGates * units * kFloatBytes;
  products.forward_scratch_bytes = bias_bytes;
  // Four tensors of one step, which are freed before the input's gradient is made.
  const std::int64_t step_bytes = kGates * tape.batch * units * kFloatBytes;
  products.backward_scratch_bytes = std::max<std::int64_t>(step_bytes - input_bytes, bias_bytes);
  tape.add(products);
  NodeCost elements;  // a part of the same operation: gates, cells and outputs
  elements.forward_flops = rows * units * (kGates + 5);
  elements.output_bytes = products.output_bytes;
  elements.in_place = true;
  elements.passes_gradient = true;
  tape.add(elements);
}

}  // namespace espalier
