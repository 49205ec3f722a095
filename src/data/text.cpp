// A text for language models, as bytes (token = byte, so a model of one text can be trained on
// another) or words. The last 10 % is the test split. Samples are windows side by side, so each
// token but the first is predicted exactly once.

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

template <class T>
void cut(Dataset& dataset, std::shared_ptr<const void> owner, std::span<const T> tokens,
         const Config& config) {
  const Windows tests = test_windows(config);
  const Windows training{tests.length, tests.length};
  const auto count = static_cast<std::int64_t>(tokens.size());
  const std::int64_t first = training_part(count);
  if (tests.in(count - first) < 1) {
    throw DataError(
        formatted("{} has {} tokens, too few for one window of data.length = {} in the tenth that "
                  "is for tests: use a longer text, or shorter windows",
                  dataset.files[0], count, tests.length));
  }
  const auto split = [&](std::int64_t begin, std::int64_t size, const Windows& windows,
                         std::int64_t limit) {
    const auto part =
        tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(size));
    return make_window_split(token_stream(owner, part), windows, {{}},
                             limited(windows.in(size), limit));
  };
  dataset.train = split(0, first, training, limits(config).train);
  dataset.test = split(first, count - first, tests, limits(config).test);
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

/// The vocabulary comes from the training part.
std::vector<std::int32_t> word_tokens(std::string_view text, std::int64_t vocabulary,
                                      std::string& list) {
  std::vector<std::int32_t> tokens;
  WordCounts words;
  for_each_word(text, [&](const std::string& word) { tokens.push_back(words.number(word)); });
  const std::int64_t training = training_part(static_cast<std::int64_t>(tokens.size()));
  for (std::int64_t i = 0; i < training; ++i) words.count(tokens[static_cast<std::size_t>(i)]);
  const std::vector<std::int32_t> token_of = words.tokens(vocabulary);
  list = words.list(vocabulary);
  for (std::int32_t& token : tokens) token = token_of[static_cast<std::size_t>(token)];
  return tokens;
}

Dataset load(const Config& config, const fs::path& folder) {
  const fs::path path = named_file(config, "data.file", folder, "tinyshakespeare/input.txt");
  Dataset dataset{"text", shape(config), nullptr, nullptr, {path.string()}};
  auto file = std::make_shared<const MappedFile>(path);
  const std::span<const std::uint8_t> bytes = file->bytes();
  if (bytes.size() >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b) {
    throw DataError(formatted("{} is a gzip file, not a text: unpack it first", path.string()));
  }
  if (bytes.empty()) throw DataError(formatted("{} is empty", path.string()));
  if (config.text("data.tokens") == "bytes") {
    cut(dataset, file, bytes, config);
  } else {
    const auto words = std::make_shared<const std::vector<std::int32_t>>(
        word_tokens(characters(bytes, path), dataset.shape.vocabulary, dataset.words));
    cut(dataset, words, std::span<const std::int32_t>(*words), config);
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
