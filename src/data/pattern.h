#pragma once
// A regular expression over UTF-8 text, with Unicode's classes (PCRE2). Spaces (\s) are Unicode's
// White_Space, as in the library that Hugging Face's tokenizers use; PCRE2 counts U+180E too.

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace espalier {

class Pattern {
 public:
  /// InputError with the library's reason and place if `expression` is none. `literal`: the text
  /// itself is looked for.
  explicit Pattern(const std::string& expression, bool literal = false);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  /// The first match from `begin` on, as [begin, end); none if there is none. `text` must be valid
  /// UTF-8. Not for several threads at once.
  std::optional<std::pair<std::size_t, std::size_t>> find(std::string_view text,
                                                          std::size_t begin) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace espalier
