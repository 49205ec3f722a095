// The user's own table: one sample a line, with its class in one column and its features, or its
// tokens in order, in the others; or with a text in some of them, whose words become tokens.

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "arrays.h"
#include "csv_file.h"
#include "espalier/base/error.h"
#include "espalier/base/log.h"
#include "espalier/config/lists.h"
#include "files.h"
#include "unicode.h"
#include "words.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

struct Columns {
  std::vector<std::string> names;  ///< "column 0", ... without a header
  std::size_t label = 0;
  std::optional<std::size_t> client;
  std::vector<std::size_t> texts;   ///< joined to one text
  std::vector<std::size_t> values;  ///< without texts
};

/// The column that an option names, or numbers from 0.
std::size_t column(const std::string& key, const std::string& wanted,
                   const std::vector<std::string>& names, const fs::path& path) {
  const auto named = std::find(names.begin(), names.end(), wanted);
  if (named != names.end()) return static_cast<std::size_t>(named - names.begin());
  const auto number = parse_integer(wanted);
  if (number && *number >= 0 && *number < static_cast<std::int64_t>(names.size())) {
    return static_cast<std::size_t>(*number);
  }
  throw InputError(formatted("{} = {} is not a column of {}; it has {} columns ({})", key, wanted,
                             path.string(), names.size(), fmt::join(names, ", ")));
}

struct Separator {
  const char* name;
  char character;
};
constexpr Separator kSeparators[] = {{"comma", ','}, {"semicolon", ';'}, {"tab", '\t'}};

char separator(const Config& config) {
  const std::string name = config.text("data.csv_separator");
  return std::find_if(std::begin(kSeparators), std::end(kSeparators),
                      [&](const Separator& separator) { return name == separator.name; })
      ->character;
}

/// Advice for a table whose only column contains another separator.
std::string other_separator(const std::string& column) {
  for (const Separator& separator : kSeparators) {
    if (column.find(separator.character) == std::string::npos) continue;
    return formatted("; set data.csv_separator = {} if that is the separator of its cells",
                     separator.name);
  }
  return "";
}

/// Advice for a cell that would be a number with a point instead of its comma.
std::string advice_on_decimals(std::string cell) {
  const auto comma = cell.find(',');
  if (comma == std::string::npos) return "";
  cell[comma] = '.';
  if (!parse_real(trimmed(cell))) return "";
  return "; write a point before the decimals (pandas: read_csv(..., decimal=','))";
}

Columns choose_columns(const Config& config, std::vector<std::string> names, const fs::path& path) {
  Columns columns{std::move(names), 0, {}, {}, {}};
  const std::string label = config.text("data.csv_label");
  columns.label = label.empty() ? columns.names.size() - 1
                                : column("data.csv_label", label, columns.names, path);
  const std::string client = config.text("data.csv_client");
  if (!client.empty()) columns.client = column("data.csv_client", client, columns.names, path);
  const auto listed = [&](const char* key) {
    std::vector<std::size_t> list;
    for (const std::string& name : words_of(config.text(key))) {
      list.push_back(column(key, name, columns.names, path));
      if (list.back() == columns.label || list.back() == columns.client) {
        throw InputError(formatted("{} names {}, which is the column of the {}", key, name,
                                   list.back() == columns.label ? "class" : "client"));
      }
    }
    return list;
  };
  const std::vector<std::size_t> skipped = listed("data.csv_skip");
  columns.texts = listed("data.csv_text");
  for (const std::size_t text : columns.texts) {
    if (std::ranges::find(skipped, text) == skipped.end()) continue;
    throw InputError(
        formatted("data.csv_text and data.csv_skip both name {}: leave it out of one of them",
                  columns.names[text]));
  }
  if (!columns.texts.empty()) return columns;
  for (std::size_t i = 0; i < columns.names.size(); ++i) {
    const bool is_skipped = std::ranges::find(skipped, i) != skipped.end();
    if (i != columns.label && i != columns.client && !is_skipped) columns.values.push_back(i);
  }
  if (columns.values.empty()) {
    throw DataError(formatted("{} has no columns beside the label's, so no features{}",
                              path.string(), other_separator(columns.names[0])));
  }
  return columns;
}

/// Whether a column of the features counts the rows, from 0 or 1.
class RowCounter {
 public:
  void add(double number) {
    if (count_ == 0) first_ = number;
    counts_ =
        counts_ && (first_ == 0 || first_ == 1) && number == first_ + static_cast<double>(count_);
    ++count_;
  }
  bool counts_rows() const { return counts_ && count_ > 2; }

 private:
  bool counts_ = true;
  double first_ = 0;
  std::int64_t count_ = 0;
};

struct Table {
  bool has_tokens = false;
  std::vector<double> numbers;  ///< doubles, because normalisation may subtract a large offset
  std::vector<std::int32_t> tokens;
  WordCounts words;
  WordRows texts{words};  ///< of data.csv_text
  std::vector<std::int32_t> labels;
  std::vector<std::string> names;  ///< of the classes, instead of their numbers
  std::vector<std::int32_t> clients;
  std::vector<std::uint8_t> split;
};

class Reader {
 public:
  Reader(const Config& config, const fs::path& path, Table& table)
      : config_(config),
        path_(path),
        table_(table),
        vocabulary_(config.integer("data.vocabulary")),
        classes_(config.integer("data.classes")) {}

  /// Appends the file's rows to `split`. `columns`: the columns of the first file.
  void read(std::uint8_t split, std::optional<Columns>& columns) {
    CsvFile file(path_, separator(config_));
    std::vector<std::string> cells;
    bool header = config_.boolean("data.csv_header");
    const std::size_t before = table_.split.size();
    while (file.next(cells)) {
      if (header) {
        check_header(cells, file, columns);
      } else if (!columns) {
        std::vector<std::string> names;
        for (std::size_t i = 0; i < cells.size(); ++i) names.push_back(formatted("column {}", i));
        columns = choose_columns(config_, std::move(names), path_);
      }
      if (!std::exchange(header, false)) row(cells, *columns, file, split);
    }
    if (table_.split.size() == before) {
      throw DataError(formatted("{} has no samples", path_.string()));
    }
    if (split == 0 && columns->texts.empty() && !table_.has_tokens && columns->values[0] == 0)
      warn_of_an_index(columns->names[0]);
  }

 private:
  /// Warns of a first column of row numbers, which pandas and R write: new samples do not have it.
  void warn_of_an_index(const std::string& column) const {
    const bool nameless = column.empty() || column.starts_with("Unnamed:");
    if (!nameless && !first_column_.counts_rows()) return;
    log_warning(formatted(
        "{}: the first column{} looks like a row number and is used as a feature; if it is a row "
        "number, leave it out (pandas: to_csv(..., index=False))",
        path_.string(), column.empty() ? ", which has no name," : formatted(" ({})", column)));
  }

  /// Refuses a header of numbers alone, because it is probably a sample; numbers that count the
  /// columns from 0 are accepted, as pandas numbers columns without names (a nameless first column
  /// may precede them).
  void check_that_names_are_no_sample(const std::vector<std::string>& cells,
                                      const CsvFile& file) const {
    const std::size_t first = trimmed(cells[0]).empty() ? 1 : 0;
    bool are_numbers = true;
    bool count_columns = true;
    for (std::size_t i = first; i < cells.size(); ++i) {
      const auto name = trimmed(cells[i]);
      are_numbers = are_numbers && (name.empty() || parse_real(name));
      count_columns = count_columns && name == std::to_string(i - first);
    }
    if (!are_numbers) return;
    if (!count_columns) {
      throw InputError(
          formatted("{} holds numbers alone; if it is a sample, set data.csv_header = false; if it "
                    "names the columns, write names that are not numbers",
                    file.place()));
    }
    log_note(
        formatted("{} counts the columns from 0 and is used as their names; if it is a sample, set "
                  "data.csv_header = false",
                  file.place()));
  }

  void check_header(const std::vector<std::string>& cells, const CsvFile& file,
                    std::optional<Columns>& columns) const {
    if (!columns) check_that_names_are_no_sample(cells, file);
    std::vector<std::string> names;
    for (const std::string& cell : cells) {
      names.emplace_back(trimmed(cell));
      if (std::find(names.begin(), names.end() - 1, names.back()) == names.end() - 1) continue;
      throw DataError(
          formatted("{}: two columns are called '{}'; rename one, or set data.csv_header = false "
                    "if this is not a header",
                    file.place(), names.back()));
    }
    if (columns && names != columns->names) {
      throw DataError(formatted("{} has other columns than the training file: {} instead of {}",
                                file.place(), fmt::join(names, ", "),
                                fmt::join(columns->names, ", ")));
    }
    if (!columns) columns = choose_columns(config_, std::move(names), path_);
  }

  /// If the options do not decide, the first row does: tokens are integers.
  bool holds_tokens(const std::vector<std::string>& cells, const Columns& columns) const {
    if (!are_tokens(config_, "data.csv_values")) return false;
    return config_.text("data.csv_values") == "tokens" ||
           std::ranges::all_of(columns.values, [&](std::size_t column) {
             return parse_integer(trimmed(cells[column])).has_value();
           });
  }

  void add_text(const std::vector<std::string>& cells, const Columns& columns,
                const CsvFile& file) {
    std::string text;
    for (const std::size_t i : columns.texts) text += cells[i] + '\n';
    if (first_invalid(text)) {
      throw DataError(formatted(
          "{} is not text in UTF-8, which data.csv_text needs: convert {} to UTF-8, e.g. by "
          "`iconv -f WINDOWS-1252 -t UTF-8 {} > NEW`, or from the file's own encoding",
          file.place(), path_.string(), path_.string()));
    }
    if (!table_.texts.add(text)) {
      throw DataError(formatted("{} has no words in data.csv_text = {}: remove the row",
                                file.place(), config_.text("data.csv_text")));
    }
  }

  void row(const std::vector<std::string>& cells, const Columns& columns, const CsvFile& file,
           std::uint8_t split) {
    if (cells.size() != columns.names.size()) {
      throw DataError(formatted("{} has {} cells instead of {}", file.place(), cells.size(),
                                columns.names.size()));
    }
    const bool is_first = table_.split.empty();
    const bool has_texts = !columns.texts.empty();
    if (is_first) table_.has_tokens = !has_texts && holds_tokens(cells, columns);
    if (has_texts) add_text(cells, columns, file);
    const auto refused = [&](std::size_t column, const std::string& expected,
                             const std::string& advice) {
      return DataError(formatted("{}: '{}' in {} is not a {}{}", file.place(), cells[column],
                                 columns.names[column], expected, advice));
    };
    const auto integer = [&](std::size_t column, std::int64_t bound, const std::string& what,
                             const std::string& advice_below = "") {
      const auto number = parse_integer(trimmed(cells[column]));
      if (!number || *number < 0 || *number >= bound) {
        throw refused(column, formatted("{} from 0 to {}", what, bound - 1),
                      number && *number < 0 ? advice_below : "");
      }
      return static_cast<std::int32_t>(*number);
    };
    for (const std::size_t i : columns.values) {
      if (table_.has_tokens) {
        table_.tokens.push_back(
            integer(i, vocabulary_, "token (data.vocabulary)",
                    "; if these are numbers, set data.csv_values = numbers and take mlp"));
        continue;
      }
      const auto number = parse_real(trimmed(cells[i]));
      if (!number || !std::isfinite(static_cast<float>(*number))) {
        const std::string advice = advice_on_decimals(cells[i]);
        throw refused(i, "finite number",
                      advice.empty() ? "; data.csv_skip leaves columns out" : advice);
      }
      table_.numbers.push_back(*number);
      if (i == 0) first_column_.add(table_.numbers.back());
    }
    constexpr std::int64_t kMost = 1'000'000;
    const std::string name(trimmed(cells[columns.label]));
    if (is_first ? !parse_real(name) && !name.empty() : !table_.names.empty()) {
      if (name.empty()) throw refused(columns.label, "name of a class", "");
      table_.names.push_back(name);
    } else {
      table_.labels.push_back(integer(columns.label, classes_ > 0 ? classes_ : kMost, "class"));
    }
    if (columns.client) {
      table_.clients.push_back(integer(*columns.client, kMost * 1000, "client"));
    }
    table_.split.push_back(split);
  }

  const Config& config_;
  const fs::path& path_;
  Table& table_;
  std::int64_t vocabulary_;
  std::int64_t classes_;
  RowCounter first_column_;
};

/// Numbers the classes in the order of their names, which no order of rows and no split changes.
void number_classes(const Config& config, const std::string& file, Table& table) {
  constexpr std::size_t kMostShown = 20;
  std::vector<std::string> classes = table.names;
  std::ranges::sort(classes);
  classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
  constexpr std::size_t kFewRows = 20;
  if (table.names.size() > kFewRows && 2 * classes.size() > table.names.size()) {
    throw DataError(formatted(
        "{} has {} different names of classes in {} rows; choose the column by data.csv_label",
        file, classes.size(), table.names.size()));
  }
  const std::int64_t most = config.integer("data.classes");
  if (most > 0 && std::ssize(classes) > most) {
    throw DataError(
        formatted("{} names {} classes, and data.classes = {}", file, classes.size(), most));
  }
  for (const std::string& name : table.names) {
    const auto place = std::ranges::lower_bound(classes, name);
    table.labels.push_back(static_cast<std::int32_t>(place - classes.begin()));
  }
  std::string shown;
  for (std::size_t i = 0; i < std::min(classes.size(), kMostShown); ++i) {
    shown += formatted("{}{} = {}", i == 0 ? "" : ", ", classes[i], i);
  }
  log_note(formatted("classes of {}: {}{}", file, shown,
                     classes.size() > kMostShown ? ", ... in the order of their names" : ""));
}

Dataset load(const Config& config, const fs::path& folder) {
  const fs::path path = named_file(config, "data.file", folder, "data.csv");
  Table table;
  std::optional<Columns> columns;
  ArraySet set;
  set.files.push_back(path.string());
  Reader(config, path, table).read(0, columns);
  const bool has_test = !config.text("data.test_file").empty();
  if (has_test) {
    const fs::path test = named_file(config, "data.test_file", folder, "");
    set.files.push_back(test.string());
    Reader(config, test, table).read(1, columns);
  }
  if (!table.names.empty()) number_classes(config, path.string(), table);
  const auto rows = static_cast<std::int64_t>(table.labels.size());
  const std::string name = path.string();
  const auto one_column = [&](std::size_t column, std::vector<std::int32_t> values) {
    return array_of(formatted("{}, {}", name, columns->names[column]), Element::i32, {rows},
                    std::move(values));
  };
  set.y = one_column(columns->label, std::move(table.labels));
  if (columns->client) set.client = one_column(*columns->client, std::move(table.clients));
  if (has_test) set.split = array_of(name, Element::u8, {rows}, std::move(table.split));
  std::string words;
  if (table.texts.size() > 0) {
    const std::int64_t length = config.integer("data.length");
    const std::int64_t vocabulary = config.integer("data.vocabulary");
    for (const std::uint32_t row : split_rows(name, rows, set.split, config).train) {
      table.texts.count(row);
    }
    words = table.words.list(vocabulary);
    set.tokens = true;
    set.x = array_of(name, Element::i32, {rows, length},
                     table.texts.tokens(0, rows, length, table.words.tokens(vocabulary)));
  } else {
    const auto width = static_cast<std::int64_t>(columns->values.size());
    set.tokens = table.has_tokens;
    set.x = !set.tokens ? array_of(name, Element::f64, {rows, width}, std::move(table.numbers))
                        : array_of(name, Element::i32, {rows, width}, std::move(table.tokens));
  }
  Dataset dataset = make_dataset("csv", set, config);
  dataset.words = std::move(words);
  return dataset;
}

}  // namespace

DataSource csv_source() {
  const auto declare = [](OptionTable& table) {
    table.add({.key = "data.test_file",
               .type = OptionType::text,
               .default_value = "",
               .help = "csv: file of the test samples; empty = drawn from data.file"});
    table.add({.key = "data.csv_header",
               .type = OptionType::boolean,
               .default_value = "true",
               .help = "csv: the first line names the columns"});
    table.add_choice("data.csv_separator", "comma", "csv: separator of the cells of a line",
                     {"comma", "semicolon", "tab"});
    table.add(
        {.key = "data.csv_label",
         .type = OptionType::text,
         .default_value = "",
         .help = "csv: column of the class (a number from 0, or a name), by name or number from 0; "
                 "empty = the last"});
    table.add({.key = "data.csv_skip",
               .type = OptionType::text,
               .default_value = "",
               .help = "csv: columns that are left out, by name or number from 0, separated by "
                       "commas"});
    table.add({.key = "data.csv_text",
               .type = OptionType::text,
               .default_value = "",
               .help = "csv: columns of text, by name or number from 0, separated by commas; "
                       "their words are the tokens, as those of agnews, and the other columns are "
                       "left out; empty = none"});
    table.add({.key = "data.csv_client",
               .type = OptionType::text,
               .default_value = "",
               .help = "csv: column of the client, for data.partition = given; empty = none"});
    table.add_choice(
        "data.csv_values", "auto",
        "csv: content of the other columns, features (numbers) or the tokens of a text; auto = "
        "tokens if the model reads tokens (gpt, encoder, lstm) and the first row has integers only",
        {"auto", "numbers", "tokens"});
  };
  const auto shape = [](const Config&) -> DataShape {
    throw DataError("the shape of csv data is known only from its file");
  };
  return {declare, shape, load};
}

}  // namespace espalier
