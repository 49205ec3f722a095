#include "espalier/config/config.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "espalier/base/error.h"

namespace espalier {

namespace {

std::string_view without_comment(std::string_view line) {
  for (std::size_t i = 0; i < line.size(); ++i)
    if (line[i] == '#' && (i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t'))
      return line.substr(0, i);
  return line;
}

std::pair<std::string, std::string> section_and_name(const std::string& key) {
  const std::size_t dot = key.rfind('.');
  return {key.substr(0, dot), key.substr(dot + 1)};
}

}  // namespace

void Config::read_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file || std::filesystem::is_directory(path))
    throw InputError(formatted("cannot read the input file {}: {}; check its name", path.string(),
                               file ? "it is a folder" : std::strerror(errno)));
  std::ostringstream text;
  text << file.rdbuf();
  if (file.bad())
    throw InputError(
        formatted("cannot read the input file {}: {}", path.string(), std::strerror(errno)));
  const std::string read = text.str();
  if (read.starts_with("\xFF\xFE") || read.starts_with("\xFE\xFF") ||
      read.find('\0') != std::string::npos)
    throw InputError(formatted(
        "the input file {} is not plain text, perhaps UTF-16; save it as UTF-8", path.string()));
  read_text(read, path.string());
}

void Config::read_text(const std::string& ini, const std::string& origin) {
  std::map<std::string, int> lines;
  std::string section;
  std::istringstream text{std::string(without_byte_order_mark(ini))};
  std::string whole_line;
  for (int number = 1; std::getline(text, whole_line); ++number) {
    const std::string_view line = trimmed(without_comment(whole_line));
    if (line.empty()) continue;
    const std::string where = formatted("{} line {}", origin, number);
    if (line.starts_with('[')) {
      section = line.ends_with(']') ? trimmed(line.substr(1, line.size() - 2)) : "";
      if (section.empty())
        throw InputError(formatted("'{}' in {} is not a section; write [name]", line, where));
      continue;
    }
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos)
      throw InputError(formatted("'{}' in {} has no '='; write key = value", line, where));
    const std::string name(trimmed(line.substr(0, equals)));
    const std::string key = section.empty() ? name : section + "." + name;
    const auto [first, is_new] = lines.emplace(key, number);
    if (!is_new)
      throw InputError(formatted("{} in {} was already given in line {}; keep one of the two", key,
                                 where, first->second));
    set(key, std::string(line.substr(equals + 1)), where);
  }
}

void Config::set(const std::string& key, const std::string& value, const std::string& origin) {
  const Option* option = table_.find(key);
  if (option == nullptr) unknown_option(table_, key, origin);
  const std::string text(trimmed(value));
  check_value(*option, key, text, origin);
  values_[key] = text;
}

void Config::set_default(const std::string& key, const std::string& value) {
  const Option* option = table_.find(key);
  ESPALIER_CHECK(option != nullptr, "a default for {}, which is not declared", key);
  check_value(*option, key, value, "a computed default");
  defaults_[key] = value;
}

const std::string& Config::raw(const std::string& key) const {
  read_.insert(key);
  if (const auto it = values_.find(key); it != values_.end()) return it->second;
  if (const auto it = defaults_.find(key); it != defaults_.end()) return it->second;
  const Option* option = table_.find(key);
  ESPALIER_CHECK(option != nullptr, "option {} is read but not declared", key);
  const bool may_be_empty =
      option->type == OptionType::text || option->type == OptionType::real_list;
  if (option->default_value.empty() && !may_be_empty)
    throw InputError(formatted(
        "{} has no default and is needed; write it in the input file or give --{}=...", key, key));
  return option->default_value;
}

// A getter of another type than the declared one is a mistake in the program, not in the input.
std::int64_t Config::integer(const std::string& key) const {
  const auto value = parse_integer(raw(key));
  ESPALIER_CHECK(value, "{} is read as an integer", key);
  return *value;
}

double Config::real(const std::string& key) const {
  const auto value = parse_real(raw(key));
  ESPALIER_CHECK(value, "{} is read as a real", key);
  return *value;
}

bool Config::boolean(const std::string& key) const {
  const auto value = parse_boolean(raw(key));
  ESPALIER_CHECK(value, "{} is read as a boolean", key);
  return *value;
}

std::string Config::text(const std::string& key) const { return raw(key); }

std::vector<double> Config::reals(const std::string& key) const {
  const auto values = parse_reals(raw(key));
  ESPALIER_CHECK(values, "{} is read as a list of reals", key);
  return *values;
}

bool Config::given(const std::string& key) const {
  ESPALIER_CHECK(table_.find(key) != nullptr, "option {} is asked for but not declared", key);
  return values_.contains(key);
}

bool Config::has(const std::string& key) const { return given(key) || defaults_.contains(key); }

std::vector<std::string> Config::names_below(const std::string& prefix) const {
  std::set<std::string> names;
  for (const auto* given_or_computed : {&values_, &defaults_}) {
    for (const auto& [key, value] : *given_or_computed) {
      if (!key.starts_with(prefix + ".")) continue;
      const std::string rest = key.substr(prefix.size() + 1);
      const std::size_t dot = rest.find('.');
      if (dot != std::string::npos) names.insert(rest.substr(0, dot));
    }
  }
  return {names.begin(), names.end()};
}

std::vector<std::string> Config::given_keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : values_) keys.push_back(key);
  return keys;
}

std::vector<std::string> Config::unread() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : values_) {
    const Option& option = *table_.find(key);
    const auto computed = defaults_.find(key);
    const std::string& usual =
        computed == defaults_.end() ? option.default_value : computed->second;
    // A given default changes nothing; the config.ini of a run gives every option.
    const bool is_usual = canonical_value(option, value) == canonical_value(option, usual);
    if (!is_usual && !read_.contains(key)) keys.push_back(key);
  }
  return keys;
}

std::string Config::resolved() const {
  std::vector<std::pair<std::string, std::string>> sections;
  const auto put = [&](const Option& option, const std::string& key, const std::string& value) {
    const auto [section, name] = section_and_name(key);
    auto it =
        std::find_if(sections.begin(), sections.end(),
                     [&, wanted = section](const auto& item) { return item.first == wanted; });
    if (it == sections.end()) it = sections.insert(sections.end(), {section, ""});
    const std::string shown = canonical_value(option, value);
    // Only text and lists may be empty in a file; the rest has no value yet and is shown as a
    // comment.
    const bool unset =
        shown.empty() && option.type != OptionType::text && option.type != OptionType::real_list;
    it->second +=
        formatted("{}{} ={}{}\n", unset ? "# " : "", name, shown.empty() ? "" : " ", shown);
  };
  for (const Option& option : table_.options()) {
    if (option.key.find('*') != std::string::npos) continue;
    const auto value = values_.find(option.key);
    const auto other = defaults_.find(option.key);
    put(option, option.key,
        value != values_.end()     ? value->second
        : other != defaults_.end() ? other->second
                                   : option.default_value);
  }
  std::map<std::string, std::string> all = values_;
  all.insert(defaults_.begin(), defaults_.end());
  for (const auto& [key, value] : all) {
    const Option& option = *table_.find(key);
    if (option.key.find('*') != std::string::npos) put(option, key, value);
  }
  std::string text;
  for (const auto& [section, lines] : sections)
    text += formatted("{}[{}]\n{}", text.empty() ? "" : "\n", section, lines);
  return text;
}

}  // namespace espalier
