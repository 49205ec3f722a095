#pragma once
// Operations with their own backward pass, because autograd would copy large tensors: products and
// look-ups add a weight's gradient straight to its place in the flat buffer, and queries and keys
// are rotated in place. They use plain ATen, so they run on any device. The first product of a step
// overwrites the gradient, which is therefore neither cleared nor read before.

#include <ATen/ATen.h>

#include "espalier/model/parameters.h"

namespace espalier {

/// x [..., in] times the transpose of `weight` [out, in...] (its dimensions after the first are
/// flattened), plus `bias` [out] if defined, all times `factor`. Returns [..., out] in new memory,
/// so that the next operation may change it in place.
at::Tensor linear_product(const at::Tensor& x, const Weight& weight, const at::Tensor& bias,
                          double factor = 1);

/// y [..., out] with factor x B (A x) added in place, for x [..., in], A = `down` [rank, in...] and
/// B = `up` [out, rank]. y must be no view, nor saved by the operation that computed it.
at::Tensor add_low_rank(at::Tensor y, const at::Tensor& x, const Weight& down, const Weight& up,
                        double factor);

/// Rows of `weight` [vocabulary, width] at int64 `tokens` [...], times `factor`; returns [...,
/// width] in new memory.
at::Tensor embed_tokens(const at::Tensor& tokens, const Weight& weight, double factor = 1);

/// The positions `places` of x [batch, positions, width], counted over the whole batch, which are
/// distinct and as many in each sample: [batch, places in a sample, width] in new memory.
at::Tensor rows_at(const at::Tensor& x, const at::Tensor& places);

/// x [..., width] divided by its root mean square along the last dimension, times `weight` [width]
/// (Zhang and Sennrich 2019).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon);

/// x [..., width] with y [..., count] added at `positions` (int64, ascending, [count]) of the last
/// dimension; a new tensor.
at::Tensor add_at(const at::Tensor& x, const at::Tensor& y, const at::Tensor& positions);

/// Rotary positions (Su et al. 2021), in place. x [batch, positions, heads x 2 x pairs]: heads one
/// after the other, each with the first values of all its pairs and then the second ones. The pairs
/// of the first `rotated` heads are rotated by the angles whose cosines and sines are in `table`
/// [2, positions, pairs]. Returns x, which must not be a view, nor saved by the operation that
/// computed it.
at::Tensor rotate_(at::Tensor x, const at::Tensor& table, std::int64_t rotated);

}  // namespace espalier
