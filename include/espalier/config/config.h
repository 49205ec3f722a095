#pragma once
// The values of one run: built-in default < input file < command line, checked when read in, and
// printable as an input file that reproduces the run. Reading a value marks it used, so that unread
// keys can be reported.

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "espalier/config/options.h"

namespace espalier {

class Config {
 public:
  explicit Config(OptionTable table) : table_(std::move(table)) {}

  /// Reads an INI file (sections, `key = value`, `#` comments). InputError (file, line or key, what
  /// to write instead) for unknown keys, wrong types, out-of-range values, keys given twice.
  void read_file(const std::filesystem::path& path);
  void read_text(const std::string& ini, const std::string& origin);
  /// One `--section.key=value` from the command line; later calls replace earlier ones.
  void set(const std::string& key, const std::string& value, const std::string& origin);
  /// A default that another part computed (e.g. a method's own default); does not count as given,
  /// and gives way to every given value, whichever came first.
  void set_default(const std::string& key, const std::string& value);

  // A key that is not declared, or declared with another type, is a broken invariant; one without a
  // default that was not given is an InputError.
  std::int64_t integer(const std::string& key) const;
  double real(const std::string& key) const;
  bool boolean(const std::string& key) const;
  std::string text(const std::string& key) const;
  std::vector<double> reals(const std::string& key) const;  ///< comma separated
  /// True if the input file or the command line gave it; does not count as reading it.
  bool given(const std::string& key) const;
  /// True if it was given, or has a computed default.
  bool has(const std::string& key) const;
  /// Names N for which has() holds for some `prefix.N.…` key, sorted ("device").
  std::vector<std::string> names_below(const std::string& prefix) const;

  /// Keys that the input file or the command line gave, ascending.
  std::vector<std::string> given_keys() const;
  /// Given keys that nothing has read so far, unless their value is the default.
  std::vector<std::string> unread() const;
  /// The resolved input file: every declared option without '*', then the '*' ones that
  /// has() holds for, by section, values in one spelling (canonical_value). Reading it again gives
  /// equal values and equal text.
  std::string resolved() const;
  const OptionTable& table() const { return table_; }

 private:
  const std::string& raw(const std::string& key) const;

  OptionTable table_;
  std::map<std::string, std::string> values_;    // given
  std::map<std::string, std::string> defaults_;  // set_default
  mutable std::set<std::string> read_;
};

}  // namespace espalier
