#include "espalier/config/options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/config/describe.h"

namespace espalier {

namespace {

/// Where a key differs by as much from all options, a suggestion is no help.
constexpr std::size_t kMostEdits = 20;

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

bool is_name(std::string_view word) {
  return !word.empty() && std::all_of(word.begin(), word.end(), [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

bool matches(const std::string& pattern, const std::string& key) {
  const auto wanted = split(pattern, '.');
  const auto words = split(key, '.');
  return std::equal(wanted.begin(), wanted.end(), words.begin(), words.end(),
                    [](std::string_view want, std::string_view word) {
                      return want == "*" ? is_name(word) : want == word;
                    });
}

// `pattern` with each '*' replaced by the word of `key` at its place, or by NAME if `key` lacks a
// word.
std::string filled(const std::string& pattern, const std::string& key) {
  const auto words = split(key, '.');
  auto wanted = split(pattern, '.');
  if (words.size() < wanted.size()) {
    std::replace(wanted.begin(), wanted.end(), std::string_view("*"), std::string_view("NAME"));
  }
  for (std::size_t i = 0; i < wanted.size() && i < words.size(); ++i)
    if (wanted[i] == "*" && is_name(words[i])) wanted[i] = words[i];
  return formatted("{}", fmt::join(wanted, "."));
}

/// Of two texts, or `bound` if they differ by at least as much. Only cells within `bound` of the
/// diagonal can be below it, so the time grows with the length of the texts and not with its
/// square.
std::size_t edit_distance(std::string_view a, std::string_view b, std::size_t bound) {
  if (std::max(a.size(), b.size()) - std::min(a.size(), b.size()) >= bound) return bound;
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = std::min(j, bound);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    const std::size_t first = i > bound ? i - bound : 1;
    const std::size_t last = std::min(b.size(), i + bound);
    std::size_t diagonal = row[first - 1];
    row[first - 1] = first == 1 ? std::min(i, bound) : bound;
    for (std::size_t j = first; j <= last; ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, diagonal + 1, row[j - 1] + 1, bound});
    }
  }
  return row.back();
}

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

bool in_range(const Option& option, double value) {
  return (!option.minimum || value >= *option.minimum) &&
         (!option.maximum || value <= *option.maximum);
}

// False if an input file with this text would be read back as another text.
bool survives_a_file(std::string_view text) {
  if (text != trimmed(text) || text.starts_with('#')) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\n' || text[i] == '\r' || text[i] == '\0') return false;
    if (text[i] == '#' && (text[i - 1] == ' ' || text[i - 1] == '\t')) return false;
  }
  return true;
}

bool valid(const Option& option, const std::string& value) {
  switch (option.type) {
    case OptionType::boolean:
      return parse_boolean(value).has_value();
    case OptionType::integer: {
      const auto number = parse_integer(value);
      return number && in_range(option, static_cast<double>(*number));
    }
    case OptionType::real: {
      const auto number = parse_real(value);
      return number && in_range(option, *number);
    }
    case OptionType::text:
      return survives_a_file(value);
    case OptionType::choice:
      return std::find(option.choices.begin(), option.choices.end(), value) != option.choices.end();
    case OptionType::real_list: {
      const auto numbers = parse_reals(value);
      return numbers && std::all_of(numbers->begin(), numbers->end(),
                                    [&](double number) { return in_range(option, number); });
    }
  }
  return false;
}

}  // namespace

void OptionTable::add(Option option) {
  for (const Option& other : options_) {
    if (other.key != option.key) continue;
    ESPALIER_CHECK(other == option, "option {} is declared twice, differently", option.key);
    return;
  }
  ESPALIER_CHECK(option.key.find('.') != std::string::npos, "option {} has no section", option.key);
  ESPALIER_CHECK(option.default_value.empty() || valid(option, option.default_value),
                 "option {}: its default '{}' is not {}", option.key, option.default_value,
                 expected_value(option));
  options_.push_back(std::move(option));
}

void OptionTable::add_choice(std::string key, std::string default_value, std::string help,
                             std::vector<std::string> choices) {
  add({.key = std::move(key),
       .type = OptionType::choice,
       .default_value = std::move(default_value),
       .help = std::move(help),
       .choices = std::move(choices)});
}

const Option* OptionTable::find(const std::string& key) const {
  const auto it = std::find_if(options_.begin(), options_.end(),
                               [&](const Option& option) { return matches(option.key, key); });
  return it == options_.end() ? nullptr : &*it;
}

std::string OptionTable::nearest(const std::string& key) const {
  const std::string name = key.substr(key.rfind('.') + 1);
  std::string best;
  // The right name in the wrong section, or without a section, is a likelier mistake than two wrong
  // letters, whatever the length of the section's name. Of several such sections the nearest is
  // meant.
  using Rank = std::pair<std::size_t, std::size_t>;
  Rank best_rank{std::min(3 + key.size() / 4, kMostEdits), 0};
  for (const Option& option : options_) {
    const std::string candidate = filled(option.key, key);
    const std::size_t distance = edit_distance(key, candidate, kMostEdits);
    const bool is_moved = candidate.substr(candidate.rfind('.') + 1) == name;
    const Rank rank{is_moved ? std::min<std::size_t>(distance, 1) : distance, distance};
    if (rank < best_rank) {
      best_rank = rank;
      best = candidate;
    }
  }
  return best;
}

void check_value(const Option& option, const std::string& key, const std::string& value,
                 const std::string& origin) {
  if (valid(option, value)) return;
  if (option.type == OptionType::text)
    throw InputError(
        formatted("{} = '{}' in {} cannot be written into an input file; write it on one line, "
                  "without blanks at its ends and without a '#' at its start or after a blank",
                  key, value, origin));
  throw InputError(formatted("{} = '{}' in {} cannot be used; write {}{}", key, value, origin,
                             expected_value(option),
                             option.unit.empty() ? "" : formatted(" (in {})", option.unit)));
}

void unknown_option(const OptionTable& table, const std::string& key, const std::string& origin) {
  const std::string near = table.nearest(key);
  throw InputError(formatted(
      "unknown option '{}' in {}; {}", key, origin,
      near.empty() ? "`espalier list options` shows all" : formatted("did you mean '{}'?", near)));
}

std::optional<bool> parse_boolean(std::string_view text) {
  if (text == "true" || text == "yes" || text == "on" || text == "1") return true;
  if (text == "false" || text == "no" || text == "off" || text == "0") return false;
  return std::nullopt;
}

std::optional<std::int64_t> parse_integer(std::string_view text) {
  return parse_number<std::int64_t>(text);
}

std::optional<double> parse_real(std::string_view text) {
  const auto number = parse_number<double>(text);
  return number && std::isfinite(*number) ? number : std::nullopt;
}

std::optional<std::vector<double>> parse_reals(std::string_view text) {
  std::vector<double> numbers;
  if (trimmed(text).empty()) return numbers;
  for (std::string_view part : split(text, ',')) {
    const auto number = parse_real(trimmed(part));
    if (!number) return std::nullopt;
    numbers.push_back(*number);
  }
  return numbers;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

std::string_view without_byte_order_mark(std::string_view text) {
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  return text.starts_with(kMark) ? text.substr(kMark.size()) : text;
}

std::string canonical_value(const Option& option, const std::string& value) {
  if (value.empty()) return value;
  switch (option.type) {
    case OptionType::boolean:
      return *parse_boolean(value) ? "true" : "false";
    case OptionType::integer:
      return formatted("{}", *parse_integer(value));
    case OptionType::real:
      return formatted("{}", *parse_real(value));
    case OptionType::real_list:
      return formatted("{}", fmt::join(*parse_reals(value), ", "));
    case OptionType::text:
    case OptionType::choice:
      return value;
  }
  return value;
}

}  // namespace espalier
