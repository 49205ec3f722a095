#pragma once
// The characters of a text in UTF-8, and which of them belong to words or separate words. By
// Unicode 14, because the C library's answers depend on the machine's locale.

#include <cstddef>
#include <optional>
#include <string_view>

namespace espalier {

/// The character that begins at `at`, which moves to its end; none if the bytes are not UTF-8.
std::optional<char32_t> next_character(std::string_view text, std::size_t& at);

/// The place of the first byte that is not UTF-8.
std::optional<std::size_t> first_invalid(std::string_view text);

/// Letters, their marks and digits of any script, and the invisible joiners within words.
bool is_in_words(char32_t c);

/// Spaces, line ends, control and formatting characters.
bool is_blank(char32_t c);

}  // namespace espalier
