#include "pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>

#include "espalier/base/error.h"

namespace espalier {
namespace {

constexpr const char* kSpaces =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";

/// The expression with \s and \S written out. Within a class \S stays as it is.
std::string with_spaces(const std::string& expression) {
  std::string text;
  bool in_class = false;
  for (std::size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == '\\' && i + 1 < expression.size()) {
      const char next = expression[++i];
      if (next == 's') {
        text += in_class ? std::string(kSpaces) : formatted("[{}]", kSpaces);
      } else if (next == 'S' && !in_class) {
        text += formatted("[^{}]", kSpaces);
      } else {
        text += {c, next};
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    text += c;
  }
  return text;
}

std::string reason_of(int error) {
  std::array<PCRE2_UCHAR, 200> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct Pattern::State {
  std::string expression;
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, pcre2_code_free};
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match{nullptr,
                                                                            pcre2_match_data_free};
};

Pattern::Pattern(const std::string& expression, bool literal) : state_(std::make_unique<State>()) {
  state_->expression = expression;
  const std::string text = literal ? expression : with_spaces(expression);
  const std::uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP);
  int error = 0;
  std::size_t place = 0;
  state_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), options,
                                   &error, &place, nullptr));
  if (!state_->code) {
    throw InputError(formatted("'{}' is no regular expression that PCRE2 knows: {}", expression,
                               reason_of(error)));
  }
  pcre2_jit_compile(state_->code.get(),
                    PCRE2_JIT_COMPLETE);  // without it: slower, the same matches
  state_->match.reset(pcre2_match_data_create_from_pattern(state_->code.get(), nullptr));
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

std::optional<std::pair<std::size_t, std::size_t>> Pattern::find(std::string_view text,
                                                                 std::size_t begin) const {
  const auto match = [&](std::uint32_t options) {
    return pcre2_match(state_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                       begin, PCRE2_NO_UTF_CHECK | options, state_->match.get(), nullptr);
  };
  int result = match(0);
  // The interpreter keeps its place in the heap, which may grow further than the compiled form's
  // stack.
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (result < 0) {
    throw InputError(formatted("the regular expression '{}' cannot be matched to the text: {}",
                               state_->expression, reason_of(result)));
  }
  const std::size_t* ends = pcre2_get_ovector_pointer(state_->match.get());
  return std::pair(ends[0], ends[1]);
}

}  // namespace espalier
