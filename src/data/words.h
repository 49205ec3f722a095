#pragma once
// Text as words. A word is a run of letters and digits of any script and of ASCII apostrophes,
// lower-cased in ASCII; every other visible character is a word of its own. Token 0 is padding, 1
// any word outside the vocabulary.

#include <cstdint>
#include <functional>
#include <span>
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

/// Rows of text as the numbers of their words, until the vocabulary is known.
class WordRows {
 public:
  /// `words` must outlive the object.
  explicit WordRows(WordCounts& words) : words_(words) {}
  /// False, and no row, if the text, which is UTF-8, has no words.
  bool add(std::string_view text);
  std::int64_t size() const { return static_cast<std::int64_t>(ends_.size()); }
  /// Counts all words of the row as training data.
  void count(std::int64_t row);
  /// `count` rows from `first` on, each cut or padded to `length` tokens. `token_of`: see
  /// WordCounts::tokens.
  std::vector<std::int32_t> tokens(std::int64_t first, std::int64_t count, std::int64_t length,
                                   const std::vector<std::int32_t>& token_of) const;

 private:
  std::span<const std::int32_t> row(std::int64_t number) const;

  WordCounts& words_;
  std::vector<std::int32_t> numbers_;
  std::vector<std::size_t> ends_;  ///< of each row in numbers_
};

}  // namespace espalier
