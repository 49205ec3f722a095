// AG News: rows of "class","title","description" with classes 1 to 4 (Zhang, Zhao and LeCun 2015).
// Words are lower-cased; the vocabulary comes from the training rows; rows are cut or padded with
// token 0 to data.length words.

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "csv_file.h"
#include "espalier/base/error.h"
#include "espalier/base/log.h"
#include "files.h"
#include "splits.h"
#include "unicode.h"
#include "words.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kClasses = 4;
constexpr std::int64_t kTrainingRows = 6000;  // of test.csv, if train.csv is absent

DataShape shape(const Config& config) {
  return {{config.integer("data.length")}, kClasses, config.integer("data.vocabulary"), false};
}

struct Rows {
  WordRows texts;
  std::vector<std::int32_t> labels;
};

/// The file writes line ends as backslashes, and apostrophes as " #39;".
std::string mended(std::string text) {
  constexpr std::string_view kApostrophe = " #39;";
  for (std::size_t at = text.find(kApostrophe); at != std::string::npos;
       at = text.find(kApostrophe, at)) {
    text[at] = '\'';
    text.erase(at + 1, kApostrophe.size() - 1);
  }
  std::replace(text.begin(), text.end(), '\\', ' ');
  return text;
}

/// All rows of the file. The first `training` rows count for the vocabulary.
Rows read_rows(const fs::path& path, std::int64_t training, WordCounts& words) {
  Rows rows{WordRows(words), {}};
  CsvFile file(path);
  std::vector<std::string> cells;
  while (file.next(cells)) {
    if (cells.size() != 3) {
      throw DataError(
          formatted("{} has {} cells instead of class, title and description; fetch the file again",
                    file.place(), cells.size()));
    }
    if (cells[0].size() != 1 || cells[0][0] < '1' || cells[0][0] > '4') {
      throw DataError(
          formatted("{} has the class '{}', which is not one of 1 to {}; fetch the file again",
                    file.place(), cells[0], kClasses));
    }
    const std::string text = mended(cells[1] + '\n' + cells[2]);
    if (first_invalid(text)) {
      throw DataError(formatted("{} is not text in UTF-8; fetch the file again", file.place()));
    }
    if (!rows.texts.add(text)) {
      throw DataError(formatted("{} has no words: remove the row", file.place()));
    }
    rows.labels.push_back(cells[0][0] - '1');
  }
  if (rows.labels.empty()) throw DataError(formatted("{} has no rows", path.string()));
  for (std::int64_t i = 0; i < std::min(training, rows.texts.size()); ++i) rows.texts.count(i);
  return rows;
}

/// The rows from `begin`, as tokens.
std::unique_ptr<Split> make_split(const Rows& rows, std::int64_t begin, std::int64_t count,
                                  std::int64_t length, const std::vector<std::int32_t>& token_of) {
  const auto label = rows.labels.begin() + begin;
  return make_value_split<std::int32_t>({length}, rows.texts.tokens(begin, count, length, token_of),
                                        {label, label + count});
}

Dataset load(const Config& config, const fs::path& folder) {
  const fs::path inner = folder / "ag_news_csv";
  const fs::path& place = is_available(inner) ? inner : folder;
  const fs::path train_path = place / "train.csv";
  const fs::path test_path = place / "test.csv";
  if (!is_available(test_path)) {
    throw MissingDataError(
        formatted("test.csv of AG News is missing; looked in {} and {}: set data.dir or "
                  "ESPALIER_DATA to the folder that holds it",
                  folder.string(), inner.string()));
  }
  Dataset dataset{"agnews", shape(config), nullptr, nullptr, {}};
  const std::int64_t length = dataset.shape.sample[0];
  const std::int64_t all = std::numeric_limits<std::int64_t>::max();
  const Limits limit = limits(config);
  WordCounts words;
  std::optional<Rows> train;
  const bool one_file = !is_available(train_path);
  if (!one_file) {
    train.emplace(read_rows(train_path, limit.train > 0 ? limit.train : all, words));
    dataset.files.push_back(train_path.string());
  }
  const Rows test = read_rows(test_path, one_file ? limited(kTrainingRows, limit.train) : 0, words);
  dataset.files.push_back(test_path.string());
  const Rows& source = one_file ? test : *train;
  const std::int64_t first_test = one_file ? kTrainingRows : 0;
  const std::int64_t training = one_file ? kTrainingRows : train->texts.size();
  const std::int64_t tests = test.texts.size() - first_test;
  if (tests <= 0) {
    throw DataError(
        formatted("{} has {} rows, and there is no train.csv beside it: its first {} rows are "
                  "to train on and the rest to test; fetch both files",
                  test_path.string(), test.texts.size(), kTrainingRows));
  }
  if (one_file) {
    log_note(formatted("agnews: there is no {}; rows 1 to {} of {} train, the other {} test",
                       train_path.string(), kTrainingRows, test_path.string(), tests));
  }
  const std::vector<std::int32_t> token_of = words.tokens(dataset.shape.vocabulary);
  dataset.words = words.list(dataset.shape.vocabulary);
  dataset.train = make_split(source, 0, limited(training, limit.train), length, token_of);
  dataset.test = make_split(test, first_test, limited(tests, limit.test), length, token_of);
  return dataset;
}

}  // namespace

DataSource agnews_source() {
  return {[](OptionTable&) {}, shape, load};
}

}  // namespace espalier
