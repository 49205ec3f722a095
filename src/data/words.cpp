#include "words.h"

#include <algorithm>
#include <utility>

#include "espalier/base/error.h"
#include "unicode.h"

namespace espalier {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

void for_each_word(std::string_view text, const std::function<void(const std::string&)>& take) {
  std::string word;
  const auto give = [&] {
    if (!word.empty()) take(word);
    word.clear();
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const auto c = next_character(text, at);
    ESPALIER_CHECK(c.has_value(), "byte {} of a text is not UTF-8", begin);
    const bool joins = is_in_words(*c) || *c == '\'';
    if (!joins) give();
    if (is_blank(*c)) continue;
    for (std::size_t i = begin; i < at; ++i) word += lower(text[i]);
    if (!joins) give();
  }
  give();
}

std::int32_t WordCounts::number(const std::string& word) {
  const auto [place, added] = numbers_.try_emplace(word, static_cast<std::int32_t>(counts_.size()));
  if (added) counts_.push_back(0);
  return place->second;
}

/// The counted words, the most frequent first.
std::vector<const WordCounts::Item*> WordCounts::ranked() const {
  std::vector<const Item*> ranked;
  for (const auto& item : numbers_) {
    if (counts_[static_cast<std::size_t>(item.second)] > 0) ranked.push_back(&item);
  }
  std::sort(ranked.begin(), ranked.end(), [this](const Item* a, const Item* b) {
    const std::int64_t of_a = counts_[static_cast<std::size_t>(a->second)];
    const std::int64_t of_b = counts_[static_cast<std::size_t>(b->second)];
    return of_a != of_b ? of_a > of_b : a->first < b->first;
  });
  return ranked;
}

std::vector<std::int32_t> WordCounts::tokens(std::int64_t vocabulary) const {
  std::vector<std::int32_t> tokens(counts_.size(), kUnknownToken);
  std::int32_t token = kFirstWordToken;
  for (const Item* item : ranked()) {
    if (token >= vocabulary) break;
    tokens[static_cast<std::size_t>(item->second)] = token++;
  }
  return tokens;
}

std::string WordCounts::list(std::int64_t vocabulary) const {
  std::string list = "<pad>\n<unk>";
  std::int32_t token = kFirstWordToken;
  for (const Item* item : ranked()) {
    if (token++ >= vocabulary) break;
    list += '\n' + item->first;
  }
  return list;
}

bool WordRows::add(std::string_view text) {
  const std::size_t begin = numbers_.size();
  for_each_word(text, [this](const std::string& word) { numbers_.push_back(words_.number(word)); });
  if (numbers_.size() == begin) return false;
  ends_.push_back(numbers_.size());
  return true;
}

std::span<const std::int32_t> WordRows::row(std::int64_t number) const {
  const auto index = static_cast<std::size_t>(number);
  const std::size_t begin = index == 0 ? 0 : ends_.at(index - 1);
  return std::span(numbers_).subspan(begin, ends_.at(index) - begin);
}

void WordRows::count(std::int64_t number) {
  for (const std::int32_t word : row(number)) words_.count(word);
}

std::vector<std::int32_t> WordRows::tokens(std::int64_t first, std::int64_t count,
                                           std::int64_t length,
                                           const std::vector<std::int32_t>& token_of) const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count * length), kPaddingToken);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::span<const std::int32_t> words = row(first + i);
    const std::size_t kept = std::min(words.size(), static_cast<std::size_t>(length));
    std::transform(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(kept),
                   tokens.begin() + i * length,
                   [&](std::int32_t word) { return token_of[static_cast<std::size_t>(word)]; });
  }
  return tokens;
}

}  // namespace espalier
