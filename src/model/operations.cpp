#include "espalier/model/operations.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <utility>
#include <vector>

#include "weight_target.h"

namespace espalier {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor rows_of(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                   double factor) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  at::Tensor out = at::empty(shape, x.options());
  at::Tensor rows = out.view({-1, shape.back()});
  const at::Tensor transposed = weight.flatten(1).t();
  if (bias.defined()) {
    at::addmm_out(rows, bias, rows_of(x), transposed, factor, factor);
  } else {
    at::addmm_out(rows, rows, rows_of(x), transposed, 0, factor);
  }
  return out;
}

// The matrix product adds the weight's gradient straight to its place in the flat buffer. Autograd
// would first make a second copy of the largest tensor of the model, and add it in another pass. A
// frozen weight has no gradient, and its inputs are not saved.
struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& place,
                            const std::optional<at::Tensor>& bias, double factor) {
    const bool trains = weight.requires_grad();
    context->save_for_backward(trains ? variable_list{weight, x} : variable_list{weight});
    context->saved_data["sizes"] = x.sizes();
    context->saved_data["trains"] = trains;
    context->saved_data["place"] = place.value_or(at::Tensor());
    context->saved_data["bias"] = bias.has_value() && bias->requires_grad();
    context->saved_data["factor"] = factor;
    return product(x, weight, bias.value_or(at::Tensor()), factor);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& weight = saved[0];
    const double factor = context->saved_data["factor"].toDouble();
    const at::Tensor g = rows_of(gradients[0]);
    at::Tensor input, own, bias;
    if (context->needs_input_grad(0)) {
      const std::vector<std::int64_t> sizes = context->saved_data["sizes"].toIntVector();
      input = at::empty(sizes, g.options());
      at::Tensor rows = input.view({-1, sizes.back()});
      at::addmm_out(rows, rows, g, weight.flatten(1), 0, factor);
    }
    if (context->saved_data["trains"].toBool()) {
      const WeightTarget target(weight, context->saved_data["place"].toTensor());
      target.add_product(g.t(), rows_of(saved[1]), factor);
      own = target.own;
    }
    if (context->saved_data["bias"].toBool()) {
      bias = g.sum(0);
      if (factor != 1) bias.mul_(factor);
    }
    return {input, own, at::Tensor(), bias, at::Tensor()};
  }
};

/// Returns A x [..., rank].
at::Tensor add_product(const at::Tensor& y, const at::Tensor& x, const at::Tensor& down,
                       const at::Tensor& up, double factor) {
  at::Tensor inner = product(x, down, {}, 1);
  y.view({-1, y.size(-1)}).addmm_(rows_of(inner), up.t(), 1, factor);
  return inner;
}

// Both factors' gradients are added straight to their places, and the sum needs no memory.
struct LowRank : torch::autograd::Function<LowRank> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y, const at::Tensor& x,
                            const at::Tensor& down, const at::Tensor& up,
                            const std::optional<at::Tensor>& down_place,
                            const std::optional<at::Tensor>& up_place, double factor) {
    const at::Tensor inner = add_product(y, x, down, up, factor);
    context->mark_dirty({y});
    variable_list saved{down, up};
    if (down.requires_grad()) saved.push_back(x);
    if (up.requires_grad()) saved.push_back(inner);
    context->save_for_backward(std::move(saved));
    context->saved_data["sizes"] = x.sizes();
    context->saved_data["down"] = down.requires_grad();
    context->saved_data["up"] = up.requires_grad();
    context->saved_data["down_place"] = down_place.value_or(at::Tensor());
    context->saved_data["up_place"] = up_place.value_or(at::Tensor());
    context->saved_data["factor"] = factor;
    return y;
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& down = saved[0];
    const at::Tensor& up = saved[1];
    const double factor = context->saved_data["factor"].toDouble();
    const bool trains_down = context->saved_data["down"].toBool();
    const at::Tensor g = rows_of(gradients[0]);
    variable_list result(7);
    result[0] = gradients[0];
    if (context->saved_data["up"].toBool()) {
      const WeightTarget target(up, context->saved_data["up_place"].toTensor());
      target.add_product(g.t(), rows_of(saved.back()), factor);
      result[3] = target.own;
    }
    if (!trains_down && !context->needs_input_grad(1)) return result;
    at::Tensor inner = at::empty({g.size(0), up.size(1)}, g.options());
    at::addmm_out(inner, inner, g, up, 0, factor);
    if (context->needs_input_grad(1)) {
      const std::vector<std::int64_t> sizes = context->saved_data["sizes"].toIntVector();
      result[1] = at::empty(sizes, g.options());
      at::Tensor rows = result[1].view({-1, sizes.back()});
      at::addmm_out(rows, rows, inner, down.flatten(1), 0, 1);
    }
    if (trains_down) {
      const WeightTarget target(down, context->saved_data["down_place"].toTensor());
      target.add_product(inner.t(), rows_of(saved[2]), 1);
      result[2] = target.own;
    }
    return result;
  }
};

at::Tensor looked_up(const at::Tensor& tokens, const at::Tensor& weight, double factor) {
  at::Tensor y = at::embedding(weight, tokens);
  return factor == 1 ? y : y.mul_(factor);
}

// As in Linear: autograd would fill a tensor of the whole vocabulary for the few rows that were
// read.
struct Embedding : torch::autograd::Function<Embedding> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& tokens,
                            const at::Tensor& weight, const at::Tensor& place, double factor) {
    context->save_for_backward({tokens, weight});
    context->saved_data["place"] = place;
    context->saved_data["factor"] = factor;
    return looked_up(tokens, weight, factor);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& weight = saved[1];
    const WeightTarget target(weight, context->saved_data["place"].toTensor());
    if (target.first) target.tensor.zero_();
    target.tensor.index_add_(0, saved[0].flatten(), rows_of(gradients[0]),
                             context->saved_data["factor"].toDouble());
    return {at::Tensor(), target.own, at::Tensor(), at::Tensor()};
  }
};

at::Tensor picked(const at::Tensor& x, const at::Tensor& places) {
  return x.flatten(0, 1).index_select(0, places).view({x.size(0), -1, x.size(2)});
}

// The gradient of index_select comes as a view, to which autograd does not add in place: where
// several classifiers read one stream, that would be a third gradient of its size.
struct RowsAt : torch::autograd::Function<RowsAt> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& places) {
    context->save_for_backward({places});
    context->saved_data["sizes"] = x.sizes();
    return picked(x, places);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const std::vector<std::int64_t> sizes = context->saved_data["sizes"].toIntVector();
    at::Tensor input = at::zeros(sizes, gradients[0].options());
    input.flatten(0, 1).index_copy_(0, context->get_saved_variables()[0], rows_of(gradients[0]));
    return {input, at::Tensor()};
  }
};

/// 1 / root mean square, [..., 1].
at::Tensor inverse_rms(const at::Tensor& x, double epsilon) {
  const auto width = static_cast<double>(x.size(-1));
  return at::linalg_vector_norm(x, 2, at::IntArrayRef{-1}, /*keepdim=*/true)
      .square_()
      .div_(width)
      .add_(epsilon)
      .rsqrt_();
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            double epsilon) {
    const at::Tensor inverse = inverse_rms(x, epsilon);
    context->save_for_backward({x, weight, inverse});
    return at::mul(x, inverse).mul_(weight);
  }
  // With r the inverse root mean square, n the width and h = g w:
  // dx = r h - x r^3 sum(h x) / n, dw = sum over rows of g x r.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor& inverse = saved[2];
    const at::Tensor& g = gradients[0];
    at::Tensor input = at::mul(g, weight);
    at::Tensor part = at::mul(input, x);
    const at::Tensor common =
        part.sum(-1, /*keepdim=*/true).mul_(inverse.pow(3)).div_(static_cast<double>(x.size(-1)));
    input.mul_(inverse).addcmul_(x, common, -1);
    at::mul_out(part, x, inverse);
    return {input, rows_of(part.mul_(g)).sum(0), at::Tensor()};
  }
};

/// x as [batch, positions, heads, 2, pairs].
at::Tensor by_pairs(const at::Tensor& x, std::int64_t pairs) {
  return x.view({x.size(0), x.size(1), -1, 2, pairs});
}

/// First (0) or second (1) values of the rotated heads, [batch, positions, rotated, pairs].
at::Tensor values(const at::Tensor& x, std::int64_t rotated, std::int64_t which) {
  return x.narrow(2, 0, rotated).select(3, which);
}

/// Cosines and sines in a shape that broadcasts to values().
std::pair<at::Tensor, at::Tensor> angles(const at::Tensor& table) {
  return {table.select(0, 0).unsqueeze(1), table.select(0, 1).unsqueeze(1)};
}

void turn(const at::Tensor& x, const at::Tensor& table, std::int64_t rotated) {
  const at::Tensor heads = by_pairs(x, table.size(2));
  const at::Tensor first = values(heads, rotated, 0);
  const at::Tensor second = values(heads, rotated, 1);
  const auto [cosine, sine] = angles(table);
  const at::Tensor crossed = at::mul(first, sine);
  first.mul_(cosine).addcmul_(second, sine, -1);
  second.mul_(cosine).add_(crossed);
}

struct Rotation : torch::autograd::Function<Rotation> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& table,
                            std::int64_t rotated) {
    context->mark_dirty({x});
    context->save_for_backward({table});
    context->saved_data["rotated"] = rotated;
    turn(x, table, rotated);
    return x;
  }
  // The transpose of a rotation is the opposite rotation.
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor table = context->get_saved_variables()[0];
    const std::int64_t rotated = context->saved_data["rotated"].toInt();
    at::Tensor input = at::empty(gradients[0].sizes(), gradients[0].options());
    const at::Tensor to = by_pairs(input, table.size(2));
    const at::Tensor from = by_pairs(gradients[0].contiguous(), table.size(2));
    const auto [cosine, sine] = angles(table);
    for (const std::int64_t which : {0, 1}) {
      at::Tensor half = values(to, rotated, which);
      at::mul_out(half, values(from, rotated, which), cosine);
      half.addcmul_(values(from, rotated, 1 - which), sine, which == 0 ? 1 : -1);
    }
    const std::int64_t rest = from.size(2) - rotated;
    if (rest > 0) to.narrow(2, rotated, rest).copy_(from.narrow(2, rotated, rest));
    return {input, at::Tensor(), at::Tensor()};
  }
};

// As at::index_add, whose backward pass would save y only for its shape.
struct AddAt : torch::autograd::Function<AddAt> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& y,
                            const at::Tensor& positions) {
    context->save_for_backward({positions});
    return at::index_add(x, -1, positions, y);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor positions = context->get_saved_variables()[0];
    return {gradients[0], gradients[0].index_select(-1, positions), at::Tensor()};
  }
};

bool trains(const at::Tensor& tensor) {
  return c10::GradMode::is_enabled() && tensor.requires_grad();
}

/// Autograd takes no undefined tensors.
std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

}  // namespace

at::Tensor linear_product(const at::Tensor& x, const Weight& weight, const at::Tensor& bias,
                          double factor) {
  const auto& [value, gradient] = weight;
  if (!trains(x) && !trains(value) && !(bias.defined() && trains(bias))) {
    return product(x, value, bias, factor);
  }
  return Linear::apply(x.contiguous(), value, optional(gradient), optional(bias), factor);
}

at::Tensor add_low_rank(at::Tensor y, const at::Tensor& x, const Weight& down, const Weight& up,
                        double factor) {
  if (trains(y) || trains(x) || trains(down.value) || trains(up.value)) {
    return LowRank::apply(std::move(y), x.contiguous(), down.value, up.value,
                          optional(down.gradient), optional(up.gradient), factor);
  }
  add_product(y, x, down.value, up.value, factor);
  return y;
}

at::Tensor rows_at(const at::Tensor& x, const at::Tensor& places) {
  return trains(x) ? RowsAt::apply(x, places) : picked(x, places);
}

at::Tensor embed_tokens(const at::Tensor& tokens, const Weight& weight, double factor) {
  return trains(weight.value) ? Embedding::apply(tokens, weight.value, weight.gradient, factor)
                              : looked_up(tokens, weight.value, factor);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  if (trains(x) || trains(weight)) return RmsNorm::apply(x, weight, epsilon);
  return at::mul(x, inverse_rms(x, epsilon)).mul_(weight);
}

at::Tensor add_at(const at::Tensor& x, const at::Tensor& y, const at::Tensor& positions) {
  return trains(x) || trains(y) ? AddAt::apply(x, y, positions)
                                : at::index_add(x, -1, positions, y);
}

at::Tensor rotate_(at::Tensor x, const at::Tensor& table, std::int64_t rotated) {
  if (trains(x)) return Rotation::apply(x, table, rotated);
  turn(x, table, rotated);
  return x;
}

}  // namespace espalier
