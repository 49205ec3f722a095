#pragma once
// The splits in which formats are kept: as compact as the source, turned into tensors batch by
// batch.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
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

/// Tokens one after the other, which are read when they are needed.
struct TokenStream {
  std::int64_t size = 0;
  /// Writes the `count` tokens from token `first` on.
  std::function<void(std::int64_t first, std::int64_t count, std::int64_t* tokens)> read;
};
/// `owner` keeps the tokens alive. T: an integer.
template <class T>
TokenStream token_stream(std::shared_ptr<const void> owner, std::span<const T> tokens) {
  return {
      static_cast<std::int64_t>(tokens.size()),
      [owner = std::move(owner), tokens](std::int64_t first, std::int64_t count, std::int64_t* to) {
        std::copy_n(tokens.begin() + first, count, to);
      }};
}

/// Windows of `length` tokens, the next one `stride` tokens later.
struct Windows {
  std::int64_t length = 0;
  std::int64_t stride = 0;

  /// How many windows with a label for each token lie in `tokens`.
  std::int64_t in(std::int64_t tokens) const {
    return tokens > length ? (tokens - length - 1) / stride + 1 : 0;
  }
};
/// Where a series of windows begins: the number of its first sample, and its first token.
struct WindowSeries {
  std::int64_t sample = 0;
  std::int64_t token = 0;
};

/// Next-token data: a sample is the tokens of a window, and its labels are the tokens one place
/// later. Where windows overlap, only the last `stride` tokens have labels, but in the first window
/// of a series all: so each token of a series but its first is a label once. `series`: ascending.
std::unique_ptr<Split> make_window_split(TokenStream tokens, const Windows& windows,
                                         std::vector<WindowSeries> series, std::int64_t samples);

/// data.length and data.stride: the windows of the test split. InputError if the stride leaves out
/// tokens, beyond the one that no window predicts.
Windows test_windows(const Config& config);

/// The split `images`, whose batches are changed at random if they are read with a stream.
/// InputError if the samples are not images.
std::unique_ptr<Split> make_augmented(std::unique_ptr<Split> images, const DataShape& shape);

/// Hides tokens of next-token data by data.mask_rate; errors as in masked_shape().
void make_masked(const Config& config, Dataset& data);

}  // namespace espalier
