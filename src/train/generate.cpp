#include "espalier/train/generate.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "espalier/base/error.h"
#include "espalier/base/random.h"

namespace espalier {
namespace {

const Purpose kToken = register_purpose("generate.token");

/// Positions of one pass: more need more memory and are no faster.
constexpr std::int64_t kPositionsAtOnce = 512;

}  // namespace

std::int64_t choose_token(std::span<const float> logits, const Sampling& sampling,
                          std::int64_t place) {
  ESPALIER_CHECK(!logits.empty());
  if (!std::ranges::all_of(logits, [](float v) { return std::isfinite(v); })) {
    throw NotFiniteError(formatted("the logits of token {} are not finite", place));
  }
  // max_element returns the first of the largest.
  const auto best = std::ranges::max_element(logits) - logits.begin();
  if (sampling.temperature == 0) return best;
  std::vector<std::int64_t> tokens(logits.size());
  std::iota(tokens.begin(), tokens.end(), std::int64_t{0});
  const auto logit = [&](std::int64_t token) { return logits[static_cast<std::size_t>(token)]; };
  const auto is_before = [&](std::int64_t a, std::int64_t b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  };
  std::int64_t kept = std::ssize(tokens);
  if (sampling.top_k > 0) kept = std::min(kept, sampling.top_k);
  std::partial_sort(tokens.begin(), tokens.begin() + kept, tokens.end(), is_before);
  tokens.resize(static_cast<std::size_t>(kept));
  std::vector<double> weights(tokens.size());
  double total = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    weights[i] =
        std::exp((static_cast<double>(logit(tokens[i])) - logit(best)) / sampling.temperature);
    total += weights[i];
  }
  if (sampling.top_p < 1) {
    double sum = 0;
    std::size_t count = 0;
    while (count < weights.size() && (count == 0 || sum < sampling.top_p * total)) {
      sum += weights[count++];
    }
    weights.resize(count);
    total = sum;
  }
  Stream stream(sampling.seed, kToken, place);
  double rest = stream.uniform() * total;
  for (std::size_t i = 0; i + 1 < weights.size(); ++i) {
    if (rest < weights[i]) return tokens[i];
    rest -= weights[i];
  }
  return tokens[weights.size() - 1];
}

TextReader::TextReader(const Model& model, const Parameters& values, std::int64_t context,
                       bool cached)
    : model_(model), values_(values), context_(std::min(context, model.shape.sample[0])) {
  ESPALIER_CHECK(model.shape.next_token && context_ > 0);
  if (cached && takes_cache(model)) cache_.emplace(1, context_);
}

std::span<const float> TextReader::read(std::span<const std::int64_t> tokens) {
  ESPALIER_CHECK(!tokens.empty());
  const c10::NoGradGuard no_gradients;
  while (!tokens.empty()) {
    if (std::ssize(window_) == context_) {
      const std::int64_t kept = std::min(context_ / 2, context_ - 1);
      window_.erase(window_.begin(), window_.end() - kept);
      if (cache_) {
        cache_->truncate(0);
        if (kept > 0) pass(window_);
      }
    }
    const std::int64_t count =
        std::min({kPositionsAtOnce, std::ssize(tokens), context_ - std::ssize(window_)});
    const auto next = tokens.first(static_cast<std::size_t>(count));
    window_.insert(window_.end(), next.begin(), next.end());
    if (cache_) pass(next);
    tokens = tokens.subspan(static_cast<std::size_t>(count));
    length_ += count;
  }
  if (!cache_) pass(window_);
  return {logits_.const_data_ptr<float>(), static_cast<std::size_t>(logits_.numel())};
}

/// Sets logits_ to those after the last of these tokens.
void TextReader::pass(std::span<const std::int64_t> tokens) {
  at::Tensor x = at::empty({1, std::ssize(tokens)}, at::kLong);
  std::ranges::copy(tokens, x.mutable_data_ptr<std::int64_t>());
  Context context;
  context.cache = cache_ ? &*cache_ : nullptr;
  context.last_position = true;
  logits_ = forward(model_, values_, x, context).select(1, -1).contiguous();
}

}  // namespace espalier
