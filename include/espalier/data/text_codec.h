#pragma once
// How the texts of a language model become tokens and its tokens become text: bytes, words, or a
// tokenizer file.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

class TextCodec {
 public:
  virtual ~TextCodec() = default;
  /// One more than the largest token.
  virtual std::int64_t vocabulary() const = 0;
  /// InputError if the text is not UTF-8 and must be.
  virtual std::vector<std::int64_t> encode(std::string_view text) const = 0;
  /// The bytes that a token adds to a text; `first`: it begins the text.
  virtual std::string bytes_of(std::int64_t token, bool first) const = 0;
  /// Whether a token is a mark and not a part of texts.
  virtual bool is_special(std::int64_t /*token*/) const { return false; }
};

/// Token = byte.
std::unique_ptr<TextCodec> byte_codec();
/// Words of `list` (Dataset::words), separated by single spaces.
std::unique_ptr<TextCodec> word_codec(const std::string& list);
/// A tokenizer.json; errors as of Tokenizer.
std::unique_ptr<TextCodec> tokenizer_codec(const std::filesystem::path& file);

}  // namespace espalier
