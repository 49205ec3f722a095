#pragma once
// Text from a language model: the logits of the next token after all tokens that were read, and the
// choice of a token from them. With a cache a token costs one row; the tokens are the same with and
// without it, and however a text is cut.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "espalier/model/key_value_cache.h"
#include "espalier/model/model.h"

namespace espalier {

struct Sampling {
  double temperature = 0;  ///< divides the logits; 0: the most probable token
  std::int64_t top_k = 0;  ///< only that many of the most probable tokens; 0: all
  /// Only the fewest most probable tokens (of those of top_k) whose probabilities add up to this
  /// (Holtzman et al. 2020).
  double top_p = 1;
  std::int64_t seed = 1;
};

/// The token for `place` of a text. The draw is named by seed and place, so it does not depend on
/// earlier ones. Of equally probable tokens the lowest comes first. NotFiniteError if a logit is
/// not a number.
std::int64_t choose_token(std::span<const float> logits, const Sampling& sampling,
                          std::int64_t place);

/// One text and the model that reads it; both arguments must outlive it.
class TextReader {
 public:
  /// Looks back at most `context` tokens, at most the model's own length. If a text is longer, the
  /// model begins again with the last half of them. `cached`: with a cache of keys and values, if
  /// the model takes one (takes_cache()).
  TextReader(const Model& model, const Parameters& values, std::int64_t context,
             bool cached = true);

  /// Reads the next tokens of the text, at least one. Returns the logits of the token after them,
  /// valid until the next call.
  std::span<const float> read(std::span<const std::int64_t> tokens);

  /// Tokens that have been read.
  std::int64_t length() const { return length_; }
  /// Bytes of the cache; 0 without one.
  std::int64_t cache_bytes() const { return cache_ ? cache_->bytes() : 0; }

 private:
  void pass(std::span<const std::int64_t> tokens);

  const Model& model_;
  const Parameters& values_;
  std::int64_t context_;
  std::int64_t length_ = 0;
  std::vector<std::int64_t> window_;  ///< the tokens that the next logits depend on
  std::optional<KeyValueCache> cache_;
  at::Tensor logits_;
};

}  // namespace espalier
