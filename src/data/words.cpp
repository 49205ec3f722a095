#include "words.h"

#include <algorithm>
#include <utility>

namespace espalier {
namespace {

bool is_letter(unsigned char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '\'' ||
         c > 127;
}

bool is_blank(unsigned char c) { return c <= ' '; }

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

void for_each_word(std::string_view text, const std::function<void(const std::string&)>& take) {
  std::string word;
  for (std::size_t i = 0; i < text.size();) {
    word.clear();
    while (i < text.size() && is_letter(static_cast<unsigned char>(text[i]))) {
      word += lower(text[i++]);
    }
    if (word.empty()) {
      const char c = text[i++];
      if (is_blank(static_cast<unsigned char>(c))) continue;
      word = c;
    }
    take(word);
  }
}

std::int32_t WordCounts::number(const std::string& word) {
  const auto [place, added] = numbers_.try_emplace(word, static_cast<std::int32_t>(counts_.size()));
  if (added) counts_.push_back(0);
  return place->second;
}

/// Those that are counted, the most frequent first.
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
