// Texts that were cut into tokens before, with any vocabulary: a folder with `tokens.npy`, all
// documents one after the other, and optionally `documents.npy` (where they begin), `split.npy`,
// `client.npy` and `meta.json`. Tokens stay in the mapped file. The documents of a split, or of one
// client, are packed: one after the other, and cut into windows without regard to their ends.

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "array_file.h"
#include "espalier/base/error.h"
#include "files.h"
#include "splits.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMostTokens = 10'000'000;  // of a vocabulary

DataError fault(const fs::path& path, const std::string& what) {
  return DataError(formatted("{} {}", path.string(), what));
}

/// The numbers of an npy file: one dimension, of this type.
Array column(const fs::path& path, std::initializer_list<Element> elements) {
  Array array = read(open_npy(path));
  if (array.shape.size() != 1) {
    throw fault(path, formatted("has {} dimensions instead of one", array.shape.size()));
  }
  if (std::ranges::find(elements, array.element) != elements.end()) return array;
  std::string names;
  for (const Element element : elements) {
    names += formatted("{}{}", names.empty() ? "" : " or ", element_name(element));
  }
  throw fault(path, formatted("holds {} instead of {}", element_name(array.element), names));
}

/// Numbers in memory; empty if there is no such file. `count`: how many there must be.
std::vector<std::int64_t> numbers(const fs::path& path, Element element,
                                  std::optional<std::int64_t> count) {
  if (!is_available(path)) return {};
  const Array array = column(path, {element});
  if (count && array.rows() != *count) {
    throw fault(path, formatted("has {} values for {} documents", array.rows(), *count));
  }
  return visit(array, [&](const auto& value) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(array.rows()));
    for (std::int64_t i = 0; i < array.rows(); ++i) {
      all[static_cast<std::size_t>(i)] = static_cast<std::int64_t>(value(i));
    }
    return all;
  });
}

void check_between(const fs::path& path, const std::vector<std::int64_t>& values,
                   std::int64_t least, std::int64_t most, const char* meaning) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] >= least && values[i] <= most) continue;
    throw fault(path, formatted("has {} for document {} (from 0), and {}", values[i], i, meaning));
  }
}

/// Where documents begin, and the end of the last; one document without the file.
std::vector<std::int64_t> offsets(const fs::path& path, std::int64_t tokens) {
  std::vector<std::int64_t> all = numbers(path, Element::i64, {});
  if (!is_available(path)) return {0, tokens};
  if (all.size() < 2 || all.front() != 0 || all.back() != tokens) {
    throw fault(path, formatted("does not begin with 0 and end with the number of tokens, {}: it "
                                "has the first token of each document, and the end of the last",
                                tokens));
  }
  const auto fall = std::ranges::adjacent_find(all, std::greater{});
  if (fall == all.end()) return all;
  throw fault(path, formatted("has {} after {} at value {} (from 0): documents follow one another",
                              *std::next(fall), *fall, std::next(fall) - all.begin()));
}

std::int64_t vocabulary_of(const fs::path& meta) {
  if (!is_available(meta)) throw fault(meta, "is missing: it states the vocabulary");
  std::ifstream file(meta);
  const nlohmann::json content = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (content.is_object() && content.contains("vocabulary")) {
    const nlohmann::json& value = content["vocabulary"];
    const auto number = value.is_number_unsigned() ? value.get<std::uint64_t>() : 0;
    if (number > 1 && number <= kMostTokens) return static_cast<std::int64_t>(number);
  }
  // Of a single token there is nothing to predict.
  throw fault(meta, formatted("has no \"vocabulary\", a whole number from 2 to {}", kMostTokens));
}

/// Tokens [begin, end) of the file, of one document.
struct Passage {
  std::int64_t begin = 0, end = 0;
  std::int64_t client = 0;
};

/// A stream of passages of the file.
class Pack {
 public:
  void add(const Passage& passage) {
    if (passage.begin == passage.end) return;
    const bool follows = !pieces_.empty() && end_ == passage.begin;
    if (!follows) pieces_.push_back({size_, passage.begin});
    size_ += passage.end - passage.begin;
    end_ = passage.end;
  }
  std::int64_t size() const { return size_; }

  TokenStream stream(const Array& tokens, std::int64_t vocabulary) && {
    const std::int64_t size = size_;
    return {size, [pieces = std::move(pieces_), size, tokens, vocabulary](
                      std::int64_t first, std::int64_t count, std::int64_t* to) {
              auto piece = std::prev(std::ranges::upper_bound(pieces, first, {}, &Piece::place));
              while (count > 0) {
                const auto next = std::next(piece);
                const std::int64_t end = next == pieces.end() ? size : next->place;
                const std::int64_t part = std::min(count, end - first);
                read(tokens, piece->token + first - piece->place, part, vocabulary, to);
                first += part;
                count -= part;
                to += part;
                piece = next;
              }
            }};
  }

 private:
  struct Piece {
    std::int64_t place;  ///< in the stream
    std::int64_t token;  ///< in the file
  };
  /// Every token is checked when it is used, since a file may have more than one start can read.
  static void read(const Array& tokens, std::int64_t first, std::int64_t count,
                   std::int64_t vocabulary, std::int64_t* to) {
    visit(tokens, [&](const auto& value) {
      for (std::int64_t i = 0; i < count; ++i) {
        to[i] = static_cast<std::int64_t>(value(first + i));
        if (to[i] >= 0 && to[i] < vocabulary) continue;
        throw DataError(
            formatted("{} has {} at place {} (from 0), which is no token of a "
                      "vocabulary of {}: write it with the tokenizer of the model",
                      tokens.name, to[i], first + i, vocabulary));
      }
    });
  }

  std::vector<Piece> pieces_;
  std::int64_t size_ = 0;
  std::int64_t end_ = -1;  ///< of the last passage, in the file
};

/// The documents of both splits, in the order of the file.
struct Documents {
  std::vector<Passage> train, test;
  bool have_clients = false;
};

Documents documents_of(const fs::path& folder, std::int64_t tokens) {
  const std::vector<std::int64_t> begin = offsets(folder / "documents.npy", tokens);
  const std::int64_t count = std::ssize(begin) - 1;
  const fs::path split_path = folder / "split.npy", client_path = folder / "client.npy";
  const auto split = numbers(split_path, Element::u8, count);
  const auto client = numbers(client_path, Element::i32, count);
  check_between(split_path, split, 0, 1, "0 is for training and 1 for tests");
  check_between(client_path, client, -1, std::numeric_limits<std::int32_t>::max(),
                "clients count from 0, and -1 is none");
  Documents result;
  result.have_clients = !client.empty();
  // Without a split the last tenth is for tests, as of `text`.
  const std::int64_t boundary = tokens - tokens / 10;
  for (std::int64_t d = 0; d < count; ++d) {
    const auto i = static_cast<std::size_t>(d);
    const Passage whole{begin[i], begin[i + 1], client.empty() ? 0 : client[i]};
    if (!split.empty()) {
      (split[i] == 0 ? result.train : result.test).push_back(whole);
      continue;
    }
    const std::int64_t cut = std::clamp(boundary, whole.begin, whole.end);
    result.train.push_back({whole.begin, cut, whole.client});
    result.test.push_back({cut, whole.end, whole.client});
  }
  return result;
}

/// The training windows, client after client.
void pack_training(Dataset& dataset, Documents documents, const Array& tokens,
                   const Config& config) {
  const std::int64_t length = dataset.shape.sample[0];
  const Windows windows{length, length};
  const bool given = config.text("data.partition") == "given";
  if (given && !documents.have_clients) {
    throw fault(fs::path(dataset.files[0]).replace_filename("client.npy"),
                "is missing, and data.partition = given needs it: tools/tokenize.py --client "
                "writes it; or set data.partition = iid");
  }
  std::ranges::stable_sort(documents.train, {}, &Passage::client);
  Pack pack;
  std::vector<WindowSeries> series;
  std::int64_t samples = 0;
  for (auto next = documents.train.begin(); next != documents.train.end();) {
    const std::int64_t client = next->client;
    if (given && client < 0) {
      throw fault(dataset.files[0],
                  "has training documents of no client (-1 in client.npy), and "
                  "data.partition = given needs one of each: mark them as tests, "
                  "or choose another partition");
    }
    const std::int64_t first = pack.size();
    for (; next != documents.train.end() && next->client == client; ++next) pack.add(*next);
    const std::int64_t own = windows.in(pack.size() - first);
    if (own > 0) series.push_back({samples, first});
    samples += own;
    if (documents.have_clients && client >= 0) {
      dataset.client_of.insert(dataset.client_of.end(), static_cast<std::size_t>(own),
                               static_cast<std::int32_t>(client));
    }
    if (given && own == 0 && client < config.integer("clients.count")) {
      throw fault(dataset.files[0],
                  formatted("has {} training tokens of client {}, too few for one window of "
                            "data.length = {}: set shorter windows, or leave the client out",
                            pack.size() - first, client, length));
    }
  }
  if (samples == 0) {
    throw fault(dataset.files[0],
                formatted("has {} training tokens, too few for one window of data.length = {}",
                          pack.size(), length));
  }
  // With documents of no client among them, only other partitions are possible.
  if (std::ssize(dataset.client_of) != samples) dataset.client_of.clear();
  samples = limited(samples, limits(config).train);
  if (!dataset.client_of.empty()) dataset.client_of.resize(static_cast<std::size_t>(samples));
  std::erase_if(series, [&](const WindowSeries& s) { return s.sample >= samples; });
  dataset.train = make_window_split(std::move(pack).stream(tokens, dataset.shape.vocabulary),
                                    windows, std::move(series), samples);
}

void pack_tests(Dataset& dataset, const Documents& documents, const Array& tokens,
                const Config& config) {
  const Windows windows = test_windows(config);
  Pack pack;
  for (const Passage& passage : documents.test) pack.add(passage);
  const std::int64_t samples = windows.in(pack.size());
  if (samples == 0) {
    throw fault(dataset.files[0],
                formatted("has {} tokens for tests, too few for one window of data.length = {}: "
                          "give it test documents (1 in split.npy), or set shorter windows",
                          pack.size(), windows.length));
  }
  dataset.test = make_window_split(std::move(pack).stream(tokens, dataset.shape.vocabulary),
                                   windows, {{}}, limited(samples, limits(config).test));
}

DataShape shape(const Config& config) {
  const std::int64_t vocabulary = config.integer("data.vocabulary");
  return {{config.integer("data.length")}, vocabulary, vocabulary, true};
}

Dataset load(const Config& config, const fs::path& folder) {
  const fs::path place = named_file(config, "data.file", folder, "tokens");
  const fs::path path = place / "tokens.npy";
  if (!is_available(path)) {
    throw MissingDataError(formatted(
        "{} is missing: set data.file to a folder that tools/tokenize.py wrote", path.string()));
  }
  const Array tokens = column(path, {Element::u16, Element::i32});
  const std::int64_t vocabulary = vocabulary_of(place / "meta.json");
  Dataset dataset{"tokens",
                  {{config.integer("data.length")}, vocabulary, vocabulary, true},
                  nullptr,
                  nullptr,
                  {path.string()}};
  for (const char* more : {"documents.npy", "split.npy", "client.npy", "meta.json"}) {
    if (is_available(place / more)) dataset.files.push_back((place / more).string());
  }
  const Documents documents = documents_of(place, tokens.rows());
  pack_tests(dataset, documents, tokens, config);
  pack_training(dataset, documents, tokens, config);
  return dataset;
}

}  // namespace

DataSource tokens_source() {
  return {[](OptionTable&) {}, shape, load};
}

}  // namespace espalier
