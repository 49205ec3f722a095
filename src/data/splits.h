#pragma once
// The splits in which formats are kept: as compact as the source, turned into tensors batch by
// batch.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "espalier/data/dataset.h"

namespace espalier {

/// data.train_limit and data.test_limit; 0: all.
struct Limits {
  std::int64_t train = 0;
  std::int64_t test = 0;
};
Limits limits(const Config& config);
/// The first `limit` of `count`, or all.
inline std::int64_t limited(std::int64_t count, std::int64_t limit) {
  return limit > 0 ? std::min(count, limit) : count;
}

/// Bytes, planes of `shape[0]` channels per sample, normalised in units of 1 / 255.
std::unique_ptr<Split> make_byte_split(std::vector<std::int64_t> shape,
                                       std::vector<std::uint8_t> pixels,
                                       std::vector<std::uint8_t> labels,
                                       const Normalisation& normalisation);

/// Floats, or tokens if T is int32: one sample after the other, with a label each.
template <class T>
std::unique_ptr<Split> make_value_split(std::vector<std::int64_t> shape, std::vector<T> values,
                                        std::vector<std::int32_t> labels);

/// Next-token data: sample i is tokens [i stride, i stride + length), its labels are the tokens one
/// place later. T: uint8 or int32. `owner` keeps the tokens alive.
template <class T>
std::unique_ptr<Split> make_window_split(std::shared_ptr<const void> owner,
                                         std::span<const T> tokens, std::int64_t length,
                                         std::int64_t stride, std::int64_t samples);

/// The split `images`, whose batches are changed at random if they are read with a stream.
/// InputError if the samples are not images.
std::unique_ptr<Split> make_augmented(std::unique_ptr<Split> images, const DataShape& shape);

/// Hides tokens of next-token data by data.mask_rate; errors as in masked_shape().
void make_masked(const Config& config, Dataset& data);

}  // namespace espalier
