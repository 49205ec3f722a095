#pragma once
// Options are declared once, with type, unit, default, range and help, by the part that reads them;
// input files, the command line, --print-config, `list options` and `explain` are all made from
// these declarations.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

enum class OptionType { boolean, integer, real, text, choice, real_list };

/// What a resume may do with the value of an option.
enum class OnResume {
  fixed,       ///< another value than the stored one is refused
  may_change,  ///< takes the new value
  place,       ///< where the run or its data are: takes the new value, and is never compared,
               ///< because nothing that a run computes depends on it
};

struct Option {
  std::string key;  ///< section.name, e.g. "train.lr"; a '*' section part matches any name
                    ///< of letters, digits, '_' and '-' ("device.*.memory_mb").
  OptionType type = OptionType::text;
  std::string default_value;  ///< as written in an input file; a boolean, number or choice whose
                              ///< default is empty has none and must be given before it is read
  std::string help;           ///< one sentence
  std::string unit = "";      ///< "s", "MB", ... or empty
  std::optional<double> minimum{};  ///< inclusive; of every item of a real_list
  std::optional<double> maximum{};  ///< inclusive
  OnResume on_resume = OnResume::fixed;
  std::vector<std::string> choices{};  ///< for OptionType::choice

  bool operator==(const Option&) const = default;
};

class OptionTable {
 public:
  /// A key declared twice is a broken invariant, unless the declarations are equal; so is a default
  /// that the option itself would refuse.
  void add(Option option);
  /// Adds an option whose value is one of `choices`.
  void add_choice(std::string key, std::string default_value, std::string help,
                  std::vector<std::string> choices);
  /// The declaration that `key` matches ('*' matches one dot-free word), or null.
  const Option* find(const std::string& key) const;
  /// The declared key closest in spelling, for messages, with the words of `key` in place of '*';
  /// empty if none is near.
  std::string nearest(const std::string& key) const;
  /// All declarations, in the order in which they were added.
  const std::vector<Option>& options() const { return options_; }

 private:
  std::vector<Option> options_;
};

/// Throws InputError unless `value` has the option's type and range; the sentence names `key` and
/// `origin`.
void check_value(const Option& option, const std::string& key, const std::string& value,
                 const std::string& origin);

/// Throws InputError "unknown option 'key' in origin; did you mean ...".
[[noreturn]] void unknown_option(const OptionTable& table, const std::string& key,
                                 const std::string& origin);

// The value of `text`, or none if the whole of `text` is not such a value. Reals are finite;
// booleans are true/false, yes/no, on/off, 1/0; lists are comma separated and may be empty.
std::optional<bool> parse_boolean(std::string_view text);
std::optional<std::int64_t> parse_integer(std::string_view text);
std::optional<double> parse_real(std::string_view text);
std::optional<std::vector<double>> parse_reals(std::string_view text);

/// `text` without blanks at its ends.
std::string_view trimmed(std::string_view text);
/// `text` without the byte order mark with which editors of Windows begin UTF-8.
std::string_view without_byte_order_mark(std::string_view text);

/// The one spelling of a valid `value`, so that equal settings compare equal as text: true/false,
/// and numbers as the shortest decimals that read back to the same value.
std::string canonical_value(const Option& option, const std::string& value);

}  // namespace espalier
