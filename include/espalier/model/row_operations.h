#pragma once
// Layers of a language model that reads a text in parts (Context::cache). A row's values have the
// same bits whatever rows are computed beside it, on any number of threads and on every instruction
// set, so a text gives the same logits however it is cut. LibTorch's kernels do not promise that:
// they choose their order of sums by the number of rows.

#include <ATen/ATen.h>

#include <cstdint>

namespace espalier {

// Tensors are contiguous floats; the results are new tensors; no gradients.

/// x [..., in] times the transpose of `weight` [out, in...], plus `bias` [out] if defined.
at::Tensor product_by_row(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// rms_norm() of operations.h.
at::Tensor rms_norm_by_row(const at::Tensor& x, const at::Tensor& weight, double epsilon);
/// at::layer_norm over the last dimension.
at::Tensor layer_norm_by_row(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                             double epsilon);

/// silu(gate) up, in the memory of `gate`.
at::Tensor silu_product_by_row(at::Tensor gate, const at::Tensor& up);

/// rotate_() of operations.h.
at::Tensor rotate_by_row_(at::Tensor x, const at::Tensor& table, std::int64_t rotated);

/// Numbers of `count` heads side by side within each row of a tensor [batch, positions, ...].
struct HeadRows {
  const float* data = nullptr;  ///< of the first head of the first row
  std::int64_t stride = 0;      ///< from one row to the next
  std::int64_t count = 0;
  std::int64_t columns = 0;  ///< of a head
};

/// Causal attention: queries [batch, positions, ...] of the last `positions` places of a text,
/// whose keys and values [batch, heads, capacity, columns] hold `length` places already, these
/// included. Each head of keys serves queries.count / heads query heads. Returns [batch, positions,
/// query heads x value columns].
at::Tensor attend_by_row(const HeadRows& queries, const at::Tensor& keys, const at::Tensor& values,
                         std::int64_t positions, std::int64_t length, double scale);

}  // namespace espalier
