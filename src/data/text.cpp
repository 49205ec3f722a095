// A text for language models, as bytes (token = byte, so a model of one text can be trained on
// another) or words. The last 10 % is the test split. Samples are windows side by side, so each
// token but the first is predicted exactly once. A folder has such a text for each client.

#include <algorithm>
#include <utility>

#include "espalier/base/error.h"
#include "files.h"
#include "splits.h"
#include "unicode.h"
#include "words.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kBytes = 256;

DataShape shape(const Config& config) {
  const std::int64_t vocabulary =
      config.text("data.tokens") == "bytes" ? kBytes : config.integer("data.vocabulary");
  return {{config.integer("data.length")}, vocabulary, vocabulary, true};
}

/// Number of training tokens of `tokens`; the rest is for tests.
std::int64_t training_part(std::int64_t tokens) { return tokens - tokens / 10; }

/// Numbers of tokens of one text.
struct Part {
  explicit Part(std::int64_t tokens) : training(training_part(tokens)), tests(tokens - training) {}
  std::int64_t training, tests;
};

/// `tokens`: the training parts of all texts, then their test parts. No window has tokens of two
/// texts. Of several texts each is a client's.
template <class T>
void cut(Dataset& dataset, const fs::path& path, std::shared_ptr<const void> owner,
         std::span<const T> tokens, const std::vector<Part>& parts, const Config& config) {
  const Windows tests = test_windows(config);
  const Windows training{tests.length, tests.length};
  const auto split = [&](std::int64_t begin, std::int64_t Part::*size, const Windows& windows,
                         std::int64_t limit) {
    std::vector<WindowSeries> series;
    std::int64_t samples = 0, count = 0;
    for (const Part& part : parts) {
      const std::int64_t own = windows.in(part.*size);
      if (own > 0) series.push_back({samples, count});
      samples += own;
      count += part.*size;
    }
    if (samples == 0) {
      throw DataError(formatted(
          "{} has {} tokens, too few for one window of data.length = {} in the tenth that is for "
          "tests: use a longer text, or shorter windows",
          path.string(), tokens.size(), windows.length));
    }
    samples = limited(samples, limit);
    std::erase_if(series, [&](const WindowSeries& s) { return s.sample >= samples; });
    const auto part =
        tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    return make_window_split(token_stream(owner, part), windows, std::move(series), samples);
  };
  std::int64_t first_test = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    first_test += parts[i].training;
    if (parts.size() == 1) break;
    const std::int64_t own = training.in(parts[i].training);
    if (own == 0) {
      throw DataError(formatted(
          "{} has {} tokens to train on, too few for one window of data.length = {}: leave the "
          "file out, or set shorter windows",
          dataset.files[i], parts[i].training, training.length));
    }
    dataset.client_of.insert(dataset.client_of.end(), static_cast<std::size_t>(own),
                             static_cast<std::int32_t>(i));
  }
  dataset.test = split(first_test, &Part::tests, tests, limits(config).test);
  dataset.train = split(0, &Part::training, training, limits(config).train);
  if (!dataset.client_of.empty()) {
    dataset.client_of.resize(static_cast<std::size_t>(dataset.train->size()));
  }
}

/// The characters of a text in UTF-8. DataError if it is in another encoding.
std::string_view characters(std::span<const std::uint8_t> bytes, const fs::path& path) {
  const std::span<const std::uint8_t> rest = bytes.subspan(mark_of_utf8(bytes, path));
  const std::string_view text(reinterpret_cast<const char*>(rest.data()), rest.size());
  if (const auto place = first_invalid(text)) {
    // In ISO-8859-1 these are control characters; in Windows-1252 they are quotes and dashes.
    const bool windows =
        std::ranges::any_of(rest, [](std::uint8_t byte) { return byte >= 0x80 && byte <= 0x9f; });
    throw DataError(formatted(
        "{} is not text in UTF-8 (line {}), which data.tokens = words needs: convert it to UTF-8, "
        "e.g. by `iconv -f {} -t UTF-8 {} > NEW`, or from the file's own encoding",
        path.string(), 1 + std::count(text.begin(), text.begin() + *place, '\n'),
        windows ? "WINDOWS-1252" : "ISO-8859-1", path.string()));
  }
  return text;
}

/// The training parts of all texts, then their test parts.
template <class T>
std::shared_ptr<const std::vector<T>> in_order(const std::vector<std::span<const T>>& texts) {
  auto all = std::make_shared<std::vector<T>>();
  for (const bool tests : {false, true}) {
    for (const std::span<const T> text : texts) {
      const auto middle = text.begin() + training_part(std::ssize(text));
      all->insert(all->end(), tests ? middle : text.begin(), tests ? text.end() : middle);
    }
  }
  return all;
}

/// The texts as words; the vocabulary comes from the training parts.
std::vector<std::vector<std::int32_t>> word_tokens(const std::vector<std::string_view>& texts,
                                                   std::int64_t vocabulary, std::string& list) {
  std::vector<std::vector<std::int32_t>> all;
  WordCounts words;
  for (const std::string_view text : texts) {
    std::vector<std::int32_t>& tokens = all.emplace_back();
    for_each_word(text, [&](const std::string& word) { tokens.push_back(words.number(word)); });
    const std::int64_t training = training_part(std::ssize(tokens));
    for (std::int64_t i = 0; i < training; ++i) words.count(tokens[static_cast<std::size_t>(i)]);
  }
  const std::vector<std::int32_t> token_of = words.tokens(vocabulary);
  list = words.list(vocabulary);
  for (std::vector<std::int32_t>& tokens : all) {
    for (std::int32_t& token : tokens) token = token_of[static_cast<std::size_t>(token)];
  }
  return all;
}

/// The file, or the texts of a folder in the order of their names.
std::vector<std::string> text_files(const fs::path& path) {
  if (!fs::is_directory(path)) return {path.string()};
  std::vector<std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    const bool is_hidden = entry.path().filename().string().starts_with('.');
    if (entry.path().extension() == ".txt" && !is_hidden) files.push_back(entry.path().string());
  }
  if (files.empty()) {
    throw DataError(formatted("{} has no file NAME.txt, one for each client", path.string()));
  }
  std::ranges::sort(files);
  return files;
}

Dataset load(const Config& config, const fs::path& folder) {
  const fs::path path = named_file(config, "data.file", folder, "tinyshakespeare/input.txt");
  Dataset dataset{"text", shape(config), nullptr, nullptr, text_files(path)};
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<std::span<const std::uint8_t>> bytes;
  for (const std::string& name : dataset.files) {
    files.push_back(std::make_shared<const MappedFile>(name));
    bytes.push_back(files.back()->bytes());
    if (bytes.back().size() >= 2 && bytes.back()[0] == 0x1f && bytes.back()[1] == 0x8b) {
      throw DataError(formatted("{} is a gzip file, not a text: unpack it first", name));
    }
    if (bytes.back().empty()) throw DataError(formatted("{} is empty", name));
  }
  const auto cut_all = [&]<class T>(const std::vector<std::span<const T>>& texts) {
    std::vector<Part> parts;
    for (const std::span<const T> text : texts) parts.emplace_back(std::ssize(text));
    const auto all = in_order(texts);
    cut(dataset, path, all, std::span<const T>(*all), parts, config);
  };
  if (config.text("data.tokens") == "words") {
    std::vector<std::string_view> texts;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      texts.push_back(characters(bytes[i], dataset.files[i]));
    }
    const auto words = word_tokens(texts, dataset.shape.vocabulary, dataset.words);
    cut_all(std::vector<std::span<const std::int32_t>>(words.begin(), words.end()));
  } else if (bytes.size() == 1) {  // stays in the mapped file
    cut(dataset, path, files[0], bytes[0], {Part(std::ssize(bytes[0]))}, config);
  } else {
    cut_all(bytes);
  }
  return dataset;
}

}  // namespace

DataSource text_source() {
  const auto declare = [](OptionTable& table) {
    table.add_choice("data.tokens", "bytes", "text: kind of tokens; the vocabulary of bytes is 256",
                     {"bytes", "words"});
  };
  return {declare, shape, load};
}

}  // namespace espalier
