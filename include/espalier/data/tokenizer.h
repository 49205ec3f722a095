#pragma once
// Byte-level BPE, as published language models use it: reads a tokenizer.json of Hugging Face's
// package `tokenizers`, turns text into tokens and tokens into text, with that package's results.
// A text is cut at added tokens, then by the file's pre-tokenizers, and the bytes of each piece are
// merged pair by pair in the order of the file's merges (Sennrich et al. 2016; Radford et al.
// 2019).

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

class Tokenizer {
 public:
  /// DataError, in one sentence, if the file cannot be read or asks for anything else: other models
  /// than BPE without dropout and affixes, normalizers, pre-tokenizers other than ByteLevel,
  /// Digits, Split (isolated, or all but the matches removed) and sequences of them,
  /// post-processors other than ByteLevel and templates, truncation, padding.
  explicit Tokenizer(const std::filesystem::path& file);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// One more than the largest token.
  std::int64_t vocabulary() const;
  /// The tokens of a text. With `whole` the tokens that the file's template puts around a text are
  /// added. Bytes that the vocabulary lacks are the unknown token, or left out if the file names
  /// none. InputError if the text is not UTF-8. Remembers words, so that it is not for several
  /// threads at once.
  std::vector<std::int32_t> encode(std::string_view text, bool whole = true) const;
  /// The bytes of a token, which may be a part of a character; empty if there is no such token.
  std::string_view bytes_of(std::int64_t token) const;
  /// Whether a token is a mark of the model (begin, end, role of a chat), not a part of texts.
  bool is_special(std::int64_t token) const;
  /// The token whose text this is; -1 if there is none.
  std::int64_t token_of(std::string_view text) const;
  /// The text of tokens without the special ones, unless `special`. As UTF-8: bytes that are none
  /// become U+FFFD.
  std::string decode(std::span<const std::int32_t> tokens, bool special = false) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Bytes that come piece by piece, as UTF-8: the beginning of a character is kept until the rest is
/// there, and bytes that are no character become U+FFFD, one for each longest beginning of a
/// character (as Python's and Rust's decoders do).
class CharacterStream {
 public:
  /// The characters that are complete now.
  std::string push(std::string_view bytes);
  /// What is left at the end.
  std::string finish();

 private:
  std::string pending_;
};

}  // namespace espalier
