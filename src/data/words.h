#pragma once
// Text as words. A word is a run of letters and digits of any script and of ASCII apostrophes,
// lower-cased in ASCII; every other visible character is a word of its own. Token 0 is padding, 1
// any word outside the vocabulary.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace espalier {

constexpr std::int32_t kPaddingToken = 0;
constexpr std::int32_t kUnknownToken = 1;
constexpr std::int32_t kFirstWordToken = 2;

/// Calls `take` with each word of the text, which is UTF-8, in order.
void for_each_word(std::string_view text, const std::function<void(const std::string&)>& take);

/// Numbers words in order of their first use, so that a text is kept as numbers until its
/// vocabulary is known.
class WordCounts {
 public:
  std::int32_t number(const std::string& word);
  /// Counts one more occurrence of the word with this number in the training data.
  void count(std::int32_t number) { ++counts_[static_cast<std::size_t>(number)]; }
  /// The token of each number: the words counted most often, ties in alphabetical order, get the
  /// tokens from 2 below `vocabulary`.
  std::vector<std::int32_t> tokens(std::int64_t vocabulary) const;
  /// The words with these tokens, one a line from token 0: "<pad>", "<unk>", the most frequent.
  std::string list(std::int64_t vocabulary) const;

 private:
  using Item = std::pair<const std::string, std::int32_t>;
  std::vector<const Item*> ranked() const;

  std::unordered_map<std::string, std::int32_t> numbers_;
  std::vector<std::int64_t> counts_;
};

}  // namespace espalier
