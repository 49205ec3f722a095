#pragma once
// The place of a product's weight gradient, for operations that write it themselves
// (operations.h).

#include <ATen/ATen.h>

namespace espalier {

/// The tensor to which a weight's gradient is added: its `.grad`, or new memory if it has no place
/// in a buffer. `first`: it is overwritten instead, because nothing was added in this step.
struct WeightTarget {
  WeightTarget(const at::Tensor& weight, const at::Tensor& place) {
    first = !weight.grad().defined();
    if (first && place.defined()) weight.mutable_grad() = place;
    if (!weight.grad().defined()) own = at::empty_like(weight);
    tensor = own.defined() ? own : weight.grad();
  }
  /// Adds factor x a b, [out, in], with the weight's dimensions after the first flattened.
  void add_product(const at::Tensor& a, const at::Tensor& b, double factor) const {
    tensor.flatten(1).addmm_(a, b, first ? 0 : 1, factor);
  }
  bool first;
  at::Tensor own;  ///< to be returned to autograd; undefined if the gradient is in its place
  at::Tensor tensor;
};

}  // namespace espalier
