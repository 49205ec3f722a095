#include "espalier/data/text_codec.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/data/tokenizer.h"
#include "unicode.h"
#include "words.h"

namespace espalier {
namespace {

class ByteTokens final : public TextCodec {
 public:
  std::int64_t vocabulary() const override { return 256; }
  std::vector<std::int64_t> encode(std::string_view text) const override {
    std::vector<std::int64_t> tokens;
    for (const char byte : text) tokens.push_back(static_cast<unsigned char>(byte));
    return tokens;
  }
  std::string bytes_of(std::int64_t token, bool) const override {
    return std::string(1, static_cast<char>(static_cast<unsigned char>(token)));
  }
};

class WordTokens final : public TextCodec {
 public:
  explicit WordTokens(const std::string& list) {
    std::size_t begin = 0;
    while (begin <= list.size()) {
      const std::size_t end = std::min(list.find('\n', begin), list.size());
      words_.push_back(list.substr(begin, end - begin));
      tokens_.emplace(words_.back(), std::ssize(words_) - 1);
      begin = end + 1;
    }
  }
  std::int64_t vocabulary() const override { return std::ssize(words_); }
  std::vector<std::int64_t> encode(std::string_view text) const override {
    if (const auto place = first_invalid(text)) {
      throw InputError(formatted("the text is not UTF-8 (byte {})", *place));
    }
    std::vector<std::int64_t> tokens;
    for_each_word(text, [&](const std::string& word) {
      const auto found = tokens_.find(word);
      tokens.push_back(found == tokens_.end() ? kUnknownToken : found->second);
    });
    return tokens;
  }
  std::string bytes_of(std::int64_t token, bool first) const override {
    if (token < 0 || token >= vocabulary()) return {};
    return (first ? "" : " ") + words_[static_cast<std::size_t>(token)];
  }

 private:
  std::vector<std::string> words_;
  std::unordered_map<std::string, std::int64_t> tokens_;
};

class TokenizerFile final : public TextCodec {
 public:
  explicit TokenizerFile(const std::filesystem::path& file) : tokenizer_(file) {}
  std::int64_t vocabulary() const override { return tokenizer_.vocabulary(); }
  std::vector<std::int64_t> encode(std::string_view text) const override {
    const std::vector<std::int32_t> tokens = tokenizer_.encode(text);
    return {tokens.begin(), tokens.end()};
  }
  std::string bytes_of(std::int64_t token, bool) const override {
    return std::string(tokenizer_.bytes_of(token));
  }
  bool is_special(std::int64_t token) const override { return tokenizer_.is_special(token); }

 private:
  Tokenizer tokenizer_;
};

}  // namespace

std::unique_ptr<TextCodec> byte_codec() { return std::make_unique<ByteTokens>(); }

std::unique_ptr<TextCodec> word_codec(const std::string& list) {
  return std::make_unique<WordTokens>(list);
}

std::unique_ptr<TextCodec> tokenizer_codec(const std::filesystem::path& file) {
  return std::make_unique<TokenizerFile>(file);
}

}  // namespace espalier
