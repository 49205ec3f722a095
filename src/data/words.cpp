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

}  // namespace espalier
