#include "espalier/config/describe.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier {

namespace {

std::string range_text(const Option& option) {
  if (option.minimum && option.maximum)
    return formatted(" from {} to {}", *option.minimum, *option.maximum);
  if (option.minimum) return formatted(" of at least {}", *option.minimum);
  if (option.maximum) return formatted(" of at most {}", *option.maximum);
  return "";
}

const char* type_name(OptionType type) {
  switch (type) {
    case OptionType::boolean:
      return "boolean";
    case OptionType::integer:
      return "integer";
    case OptionType::real:
      return "real";
    case OptionType::text:
      return "text";
    case OptionType::choice:
      return "choice";
    case OptionType::real_list:
      return "list of reals";
  }
  return "";
}

std::string default_text(const Option& option) {
  if (option.default_value.empty()) return "(none)";
  return option.unit.empty() ? option.default_value : option.default_value + " " + option.unit;
}

const char* resume_text(OnResume on_resume) {
  switch (on_resume) {
    case OnResume::fixed:
      return "";
    case OnResume::may_change:
      return "  resume:  may be changed when a run is resumed\n";
    case OnResume::place:
      return "  resume:  may be changed when a run is resumed, and has no effect on its values\n";
  }
  return "";
}

}  // namespace

std::string expected_value(const Option& option) {
  switch (option.type) {
    case OptionType::boolean:
      return "true or false";
    case OptionType::integer:
      return "an integer" + range_text(option);
    case OptionType::real:
      return "a number" + range_text(option);
    case OptionType::text:
      return "text";
    case OptionType::choice:
      return formatted("one of: {}", fmt::join(option.choices, ", "));
    case OptionType::real_list:
      return "numbers" + range_text(option) + ", separated by commas";
  }
  return "";
}

std::string list_options(const OptionTable& table) {
  std::size_t key_width = 0, default_width = 0;
  for (const Option& option : table.options()) {
    key_width = std::max(key_width, option.key.size());
    default_width = std::max(default_width, default_text(option).size());
  }
  // One long default must not push the help of all others off the screen.
  default_width = std::min<std::size_t>(default_width, 20);
  std::string text;
  for (const Option& option : table.options()) {
    const std::string choices = option.type == OptionType::choice
                                    ? formatted(" ({})", fmt::join(option.choices, " | "))
                                    : "";
    text += formatted("{:<{}}  {:<{}}  {}{}\n", option.key, key_width, default_text(option),
                      default_width, option.help, choices);
  }
  return text;
}

std::string explain_options(const OptionTable& table) {
  std::string text;
  for (const Option& option : table.options()) {
    text += (text.empty() ? "" : "\n") + explain_option(table, option.key);
  }
  return text;
}

std::string explain_option(const OptionTable& table, const std::string& key) {
  const auto& options = table.options();
  const auto declared =
      std::find_if(options.begin(), options.end(), [&](const Option& o) { return o.key == key; });
  const Option* option = declared == options.end() ? table.find(key) : &*declared;
  if (option == nullptr) unknown_option(table, key, "explain");
  std::string text =
      formatted("{}\n  {}\n  type:    {}\n", option->key, option->help, type_name(option->type));
  if (!option->unit.empty()) text += formatted("  unit:    {}\n", option->unit);
  text += formatted("  default: {}\n", default_text(*option));
  text += formatted("  accepts: {}\n", expected_value(*option));
  text += resume_text(option->on_resume);
  return text;
}

}  // namespace espalier
