// The JSON files of the LEAF benchmark (Caldas et al. 2018): `users`, `num_samples` and
// `user_data`, which has `x` and `y` of each user. Users are the clients. Samples are texts of one
// length whose next character is the label (Shakespeare), or flat lists of numbers with a class
// (FEMNIST).
// `num_samples` is not read: LEAF's own files count samples there that they leave out.

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "arrays.h"
#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/config/lists.h"
#include "files.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const Purpose kSplit = register_purpose("data.leaf_split");

constexpr std::int64_t kBytes = 256;
constexpr std::int64_t kShakespeare = 80;  // characters of a sample

Takes taken(const Config& config) {
  return model_families().get(config.text("model.name")).value.takes;
}

/// Whether texts have a label for each of their characters, and not only for the last.
bool labels_every_character(const Config& config) {
  const std::string labels = config.text("data.leaf_labels");
  return labels == "auto" ? taken(config) != Takes::texts : labels == "every";
}

/// Samples one after the other, in the order of the files.
struct Samples {
  std::vector<std::uint8_t> text;  ///< bytes of all samples, or
  std::vector<float> numbers;      ///< their numbers
  std::vector<std::int64_t> y;     ///< byte or class
  std::vector<std::int32_t> client;
  std::int64_t per_sample = 0;  ///< bytes or numbers; 0: there is no sample yet

  bool are_text() const { return !text.empty(); }
};

/// The clients' numbers by name, in the order of `users`.
using Clients = std::map<std::string, std::int32_t>;

/// Takes the values of one file as the parser meets them, so that a large file is never a tree.
class Reader final : public nlohmann::json_sax<Json> {
 public:
  Reader(fs::path path, Samples& samples) : path_(std::move(path)), samples_(samples) {}

  /// Call at the end of the file: checks that the parts agree, and numbers the samples' clients.
  void finish(Clients& clients) {
    if (users_.empty()) refuse("has no `users`");
    for (const std::string& user : users_) {
      if (!counts_.contains(user)) refuse(formatted("has no user_data of the user {}", user));
      clients.emplace(user, static_cast<std::int32_t>(clients.size()));
    }
    if (counts_.size() != users_.size()) {
      refuse(formatted("has user_data of {} users, and `users` names {}", counts_.size(),
                       users_.size()));
    }
    for (const std::string& user : order_) {
      samples_.client.insert(samples_.client.end(), static_cast<std::size_t>(counts_[user]),
                             clients.at(user));
    }
  }

  bool null() override { refuse(formatted("has a null in {}", place())); }
  bool boolean(bool value) override { return number(value ? 1 : 0); }
  bool number_integer(Json::number_integer_t value) override {
    return number(static_cast<double>(value));
  }
  bool number_unsigned(Json::number_unsigned_t value) override {
    return number(static_cast<double>(value));
  }
  bool number_float(Json::number_float_t value, const std::string&) override {
    return number(value);
  }
  bool binary(Json::binary_t&) override { return true; }
  bool string(std::string& value) override {
    if (in_list("users")) users_.push_back(value);
    if (!in_samples()) return true;
    if (levels_.size() > 4) {
      refuse(
          formatted("has a list of texts in {}: leaf reads texts of one length whose next "
                    "character is y (Shakespeare), and lists of numbers (FEMNIST)",
                    place()));
    }
    if (part() == "x") return text(value);
    if (value.size() != 1) {
      refuse(
          formatted("has '{}' in {}, which is not one byte, the next character", value, place()));
    }
    samples_.y.push_back(static_cast<std::uint8_t>(value[0]));
    ++labels_;
    return true;
  }

  bool start_object(std::size_t) override {
    levels_.push_back({true, ""});
    return true;
  }
  bool key(std::string& value) override {
    levels_.back().key = value;
    if (levels_.size() == 2 && levels_[0].key == "user_data") {
      if (!counts_.emplace(value, 0).second) refuse(formatted("has the user {} twice", value));
      order_.push_back(value);
      inputs_ = labels_ = 0;
    }
    return true;
  }
  bool end_object() override {
    levels_.pop_back();
    if (levels_.size() == 2 && levels_[0].key == "user_data") end_user();
    return true;
  }
  bool start_array(std::size_t) override {
    levels_.push_back({false, ""});
    if (in_samples() && levels_.size() > 5) {
      refuse(formatted("has lists within lists in {}: write the numbers of a sample as one list",
                       place()));
    }
    begin_ = samples_.numbers.size();
    return true;
  }
  bool end_array() override {
    if (in_samples() && levels_.size() == 5) {
      end_sample(static_cast<std::int64_t>(samples_.numbers.size() - begin_), "numbers");
    }
    levels_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    refuse(formatted("is not valid JSON at byte {}, or is cut short: fetch or make it again",
                     position));
  }

 private:
  struct Level {
    bool is_object;
    std::string key;  ///< of the current member
  };

  [[noreturn]] void refuse(const std::string& fault) const {
    throw DataError(formatted("{} {}", path_.string(), fault));
  }
  /// Directly in the list that the root has under this key.
  bool in_list(const char* key) const { return levels_.size() == 2 && levels_[0].key == key; }
  /// In the list x or y of a user, or below.
  bool in_samples() const {
    return levels_.size() >= 4 && levels_[0].key == "user_data" && !levels_[3].is_object &&
           (part() == "x" || part() == "y");
  }
  const std::string& part() const { return levels_[2].key; }
  std::string place() const {
    if (!in_samples()) return levels_.empty() ? "it" : formatted("`{}`", levels_[0].key);
    return formatted("{} of sample {} (from 0) of the user {}", part(),
                     part() == "x" ? inputs_ : labels_, levels_[1].key);
  }

  bool number(double value) {
    if (!in_samples()) return true;
    const std::size_t expected = part() == "x" ? 5 : 4;
    if (levels_.size() != expected) {
      refuse(formatted("has a number in {} where {} is expected", place(),
                       part() == "x" ? "a text or a list of numbers" : "one class"));
    }
    if (part() == "x") {
      samples_.numbers.push_back(static_cast<float>(value));
      return true;
    }
    if (value != std::floor(value) || std::abs(value) > 1e9) {
      refuse(formatted("has {} in {}, which is no class", value, place()));
    }
    samples_.y.push_back(static_cast<std::int64_t>(value));
    ++labels_;
    return true;
  }
  bool text(const std::string& value) {
    samples_.text.insert(samples_.text.end(), value.begin(), value.end());
    end_sample(static_cast<std::int64_t>(value.size()), "bytes");
    return true;
  }
  void end_sample(std::int64_t length, const char* unit) {
    if (samples_.per_sample == 0) samples_.per_sample = length;
    if (length == 0 || length != samples_.per_sample) {
      refuse(formatted("has {} {} in {}, and the samples before have {}: all need one length",
                       length, unit, place(), samples_.per_sample));
    }
    ++inputs_;
  }
  void end_user() {
    const std::string& user = levels_[1].key;
    if (inputs_ != labels_) {
      refuse(formatted("has {} x and {} y of the user {}", inputs_, labels_, user));
    }
    if (!samples_.text.empty() && !samples_.numbers.empty()) {
      refuse(formatted("has texts and lists of numbers, from the user {} on", user));
    }
    counts_[user] = inputs_;
  }

  fs::path path_;
  Samples& samples_;
  std::vector<Level> levels_;
  std::vector<std::string> users_;
  std::map<std::string, std::int64_t> counts_;  // samples of each user in user_data
  std::vector<std::string> order_;              // of user_data
  std::int64_t inputs_ = 0, labels_ = 0;        // of the current user
  std::size_t begin_ = 0;                       // of the current sample's numbers
};

/// The file, or the JSON files of the folder in the order of their names.
std::vector<fs::path> json_files(const fs::path& place) {
  if (!fs::is_directory(place)) return {place};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(place)) {
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  }
  if (files.empty()) {
    throw MissingDataError(
        formatted("{} has no JSON files: set data.file to one of LEAF's files, "
                  "or to their folder",
                  place.string()));
  }
  std::ranges::sort(files);
  return files;
}

void read(const fs::path& place, Samples& samples, Clients& clients,
          std::vector<std::string>& files) {
  for (const fs::path& path : json_files(place)) {
    const MappedFile file(path);
    const auto bytes = file.bytes();
    Reader reader(path, samples);
    Json::sax_parse(bytes.begin(), bytes.end(), &reader);
    reader.finish(clients);
    files.push_back(path.string());
  }
}

/// Which samples are for tests, if LEAF's own division is absent: of each user data.test_share, of
/// numbers at random, of texts the last ones. Consecutive texts share all characters but one, so
/// those that reach into the training texts are left out (-1), as LEAF does.
std::vector<int> drawn_split(const Samples& samples, const Config& config) {
  std::vector<int> split(samples.client.size(), 0);
  for (std::size_t begin = 0, end = 0; begin < split.size(); begin = end) {
    const std::int32_t client = samples.client[begin];
    while (end < split.size() && samples.client[end] == client) ++end;
    const auto count = static_cast<std::int64_t>(end - begin);
    const auto tests =
        static_cast<std::int64_t>(config.real("data.test_share") * static_cast<double>(count));
    if (samples.are_text()) {
      for (std::int64_t i = count - tests; i < count; ++i) {
        const bool overlaps = i < count - tests + samples.per_sample - 1;
        split[begin + static_cast<std::size_t>(i)] = overlaps ? -1 : 1;
      }
    } else {
      Stream random(config.integer("run.seed"), kSplit, client);
      for (const std::int64_t i : random.choose(tests, count)) {
        split[begin + static_cast<std::size_t>(i)] = 1;
      }
    }
  }
  return split;
}

/// The shape of samples of `count` numbers.
std::vector<std::int64_t> shape_of(std::int64_t count, const Config& config,
                                   const std::string& file) {
  std::vector<std::int64_t> shape = whole_numbers(config, "data.shape", "size");
  if (!shape.empty()) {
    std::int64_t size = 1;
    for (const std::int64_t extent : shape) size *= extent;
    if (size == count) return shape;
    throw InputError(
        formatted("data.shape has {} values, and the samples of {} have {}", size, file, count));
  }
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(count))));
  if (taken(config) != Takes::images) return {count};
  if (side * side == count) return {1, side, side};
  throw InputError(
      formatted("the samples of {} have {} numbers, which are no square image: set "
                "data.shape to channels, height, width",
                file, count));
}

/// The kept samples' values, of `per_sample` each.
template <class T>
std::vector<T> kept(const std::vector<T>& values, const std::vector<int>& split,
                    std::int64_t per_sample) {
  std::vector<T> result;
  for (std::size_t i = 0; i < split.size(); ++i) {
    if (split[i] < 0) continue;
    const auto begin = values.begin() + static_cast<std::int64_t>(i) * per_sample;
    result.insert(result.end(), begin, begin + per_sample);
  }
  return result;
}

/// The token after each byte of each sample.
std::vector<std::uint8_t> next_bytes(const std::vector<std::uint8_t>& text,
                                     const std::vector<std::int64_t>& y, std::int64_t length) {
  std::vector<std::uint8_t> next;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const auto begin = text.begin() + static_cast<std::int64_t>(i) * length;
    next.insert(next.end(), begin + 1, begin + length);
    next.push_back(static_cast<std::uint8_t>(y[i]));
  }
  return next;
}

Dataset load(const Config& config, const fs::path& folder) {
  const fs::path place = named_file(config, "data.file", folder, "leaf");
  const bool divided = is_available(place / "train") && is_available(place / "test");
  Samples samples;
  Clients clients;
  ArraySet set;
  read(divided ? place / "train" : place, samples, clients, set.files);
  std::vector<int> split(samples.client.size(), 0);
  if (divided) {
    read(place / "test", samples, clients, set.files);
    split.resize(samples.client.size(), 1);
  } else {
    split = drawn_split(samples, config);
  }
  if (samples.client.empty()) throw DataError(formatted("{} has no samples", set.files[0]));

  const std::int64_t length = samples.per_sample;
  samples.y = kept(samples.y, split, 1);
  const auto rows = std::ssize(samples.y);
  const auto name = [&](const char* part) { return formatted("{}: {}", set.files[0], part); };
  set.tokens = samples.are_text();
  if (set.tokens) {
    samples.text = kept(samples.text, split, length);
    set.vocabulary = set.classes = kBytes;
    if (labels_every_character(config)) {
      set.y = array_of(name("y"), Element::u8, {rows, length},
                       next_bytes(samples.text, samples.y, length));
    } else {
      set.y = array_of(name("y"), Element::i64, {rows}, samples.y);
    }
    set.x = array_of(name("x"), Element::u8, {rows, length}, std::move(samples.text));
  } else {
    std::vector<std::int64_t> shape = shape_of(length, config, set.files[0]);
    shape.insert(shape.begin(), rows);
    set.y = array_of(name("y"), Element::i64, {rows}, samples.y);
    set.x = array_of(name("x"), Element::f32, std::move(shape), std::move(samples.numbers));
  }
  set.client = array_of(name("users"), Element::i32, {rows}, kept(samples.client, split, 1));
  set.split = array_of(name("split"), Element::i32, {rows}, kept(split, split, 1));
  return make_dataset("leaf", set, config);
}

DataShape shape(const Config& config) {
  if (reads_tokens(config)) {
    return {{kShakespeare}, kBytes, kBytes, labels_every_character(config)};
  }
  const DataShape stated{whole_numbers(config, "data.shape", "size"),
                         config.integer("data.classes")};
  if (stated.sample.empty() || stated.classes == 0) {
    throw DataError(
        "the shape of leaf is known from its files; for --check without them, set data.shape and "
        "data.classes");
  }
  return stated;
}

}  // namespace

DataSource leaf_source() {
  const auto declare = [](OptionTable& table) {
    table.add_choice("data.leaf_labels", "auto",
                     "leaf: labels of a text: the character after each of its characters, or only "
                     "the one after the last; auto = last for a model that only classifies texts, "
                     "else every",
                     {"auto", "every", "last"});
  };
  return {declare, shape, load};
}

}  // namespace espalier
