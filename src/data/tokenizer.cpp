#include "espalier/data/tokenizer.h"

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_map>
#include <utility>

#include "espalier/base/error.h"
#include "files.h"
#include "pattern.h"
#include "unicode.h"

namespace espalier {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// GPT-2's words: an apostrophe with an English ending, letters, digits or other characters with
/// the space before them, and spaces, of which the last belongs to the next word.
constexpr const char* kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr std::size_t kRememberedWords = 200'000;
constexpr std::size_t kRememberedBytes = 64;  // of a word

/// GPT-2's alphabet: the character that stands for each byte. Visible characters of Latin-1 stand
/// for themselves, the others follow from U+0100 on.
std::array<char32_t, 256> alphabet() {
  std::array<char32_t, 256> characters{};
  char32_t next = 256;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool is_visible =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    characters[byte] = is_visible ? byte : next++;
  }
  return characters;
}

/// The bytes that a token's characters stand for; the text itself if one of them stands for none.
std::string bytes_of_characters(const std::string& text) {
  static const std::map<char32_t, char> bytes = [] {
    std::map<char32_t, char> result;
    const auto characters = alphabet();
    for (std::size_t i = 0; i < 256; ++i) result[characters[i]] = static_cast<char>(i);
    return result;
  }();
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const auto c = next_character(text, at);
    const auto byte = c ? bytes.find(*c) : bytes.end();
    if (byte == bytes.end()) return text;
    result += byte->second;
  }
  return result;
}

/// A stage of the cutting: the text's matches and what is between them.
struct Cut {
  std::optional<Pattern> pattern;
  bool prefix_space = false;  ///< before that: a space before a text that begins with none
  bool drops_rest = false;    ///< what is between the matches is left out
};

struct AddedToken {
  std::string text;
  std::int32_t token = -1;
};

struct Merge {
  std::int32_t rank = 0;
  std::int32_t token = 0;
};

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U |
         static_cast<std::uint32_t>(right);
}

/// The values of a JSON object, with sentences about what is absent or of another type.
class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  [[noreturn]] void refuse(const std::string& what) const {
    throw DataError(formatted("{} {}", file_, what));
  }
  /// A tokenizer that this program does not know.
  [[noreturn]] void unknown(const std::string& what) const {
    refuse(
        formatted("has {}; byte-level BPE as of GPT-2, Llama 3 and SmolLM2 is known "
                  "(docs/generate.md)",
                  what));
  }
  const json& member(const json& object, const char* name) const {
    static const json none;
    if (!object.is_object()) refuse(formatted("lacks the object around '{}'", name));
    const auto found = object.find(name);
    return found == object.end() ? none : *found;
  }
  std::string text(const json& object, const char* name) const {
    const json& value = member(object, name);
    if (!value.is_string()) refuse(formatted("has no text '{}' where one is needed", name));
    return value.get<std::string>();
  }
  bool flag(const json& object, const char* name, bool absent) const {
    const json& value = member(object, name);
    if (value.is_null()) return absent;
    if (!value.is_boolean()) refuse(formatted("has '{}' that is neither true nor false", name));
    return value.get<bool>();
  }
  std::int32_t token(const json& value, const std::string& what) const {
    constexpr std::int64_t kMost = 1 << 30;
    if (!value.is_number_integer() || value.get<std::int64_t>() < 0 ||
        value.get<std::int64_t>() > kMost) {
      refuse(formatted("has a token of {} that is no number from 0 on", what));
    }
    return value.get<std::int32_t>();
  }
  const json& list(const json& object, const char* name) const {
    const json& value = member(object, name);
    if (!value.is_array()) refuse(formatted("has no list '{}'", name));
    return value;
  }
  static bool is_empty(const json& value) {
    return value.is_null() || (value.is_string() && value.get<std::string>().empty());
  }

 private:
  std::string file_;
};

/// Added tokens by their first byte, the longest first, so that the first that fits is the longest.
using AddedTokens = std::array<std::vector<AddedToken>, 256>;

}  // namespace

struct Tokenizer::State {
  std::unordered_map<std::string, std::int32_t> vocabulary;  // of texts of BPE, as bytes
  std::unordered_map<std::uint64_t, Merge> merges;
  std::array<std::int32_t, 256> token_of_byte{};
  std::vector<std::string> bytes;
  std::vector<bool> special;
  std::vector<bool> exists;
  std::unordered_map<std::string, std::int32_t> token_of_text;
  /// Those that are looked for first, then those of normalised text.
  std::array<AddedTokens, 2> added;
  std::vector<Cut> cuts;
  std::vector<std::int32_t> before, after;  // a whole text
  std::int32_t unknown = -1;
  bool whole_words = false;  // a word of the vocabulary is taken without merges
  mutable std::unordered_map<std::string, std::vector<std::int32_t>> remembered;

  void set(std::int32_t token, std::string text) {
    const auto place = static_cast<std::size_t>(token);
    if (place >= bytes.size()) {
      bytes.resize(place + 1);
      special.resize(place + 1, false);
      exists.resize(place + 1, false);
    }
    bytes[place] = std::move(text);
    exists[place] = true;
  }

  void read_model(const Reader& reader, const json& model);
  void read_added(const Reader& reader, const json& added_tokens);
  void read_cuts(const Reader& reader, const json& stage);
  void read_template(const Reader& reader, const json& processor);

  void merge(std::string_view word, std::vector<std::int32_t>& tokens) const;
  void encode_new_word(std::string_view word, std::vector<std::int32_t>& tokens) const;
  void encode_word(std::string_view word, std::vector<std::int32_t>& tokens) const;
  void cut(std::size_t stage, std::string_view text, std::vector<std::int32_t>& tokens) const;
  /// Cuts the text at added tokens of one kind and hands each piece between them to `rest`.
  void cut_added(const AddedTokens& kind, std::string_view text, std::vector<std::int32_t>& tokens,
                 const std::function<void(std::string_view)>& rest) const;
};

void Tokenizer::State::read_model(const Reader& reader, const json& model) {
  if (const json& type = reader.member(model, "type");
      !type.is_null() && (!type.is_string() || type.get<std::string>() != "BPE")) {
    reader.unknown(formatted("the model {}", type.dump()));
  }
  const json& dropout = reader.member(model, "dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0)) {
    reader.unknown("a dropout of merges");
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!Reader::is_empty(reader.member(model, affix))) reader.unknown(formatted("'{}'", affix));
  }
  if (reader.flag(model, "byte_fallback", false)) reader.unknown("'byte_fallback'");
  whole_words = reader.flag(model, "ignore_merges", false);
  const json& words = reader.member(model, "vocab");
  if (!words.is_object() || words.empty()) reader.refuse("has no 'vocab' with words and tokens");
  for (const auto& [text, value] : words.items()) {
    const std::int32_t token = reader.token(value, formatted("'{}'", text));
    std::string own = bytes_of_characters(text);
    vocabulary.emplace(own, token);
    token_of_text.emplace(text, token);
    set(token, std::move(own));
  }
  if (const json& value = reader.member(model, "unk_token"); !Reader::is_empty(value)) {
    const auto found = token_of_text.find(reader.text(model, "unk_token"));
    if (found != token_of_text.end()) unknown = found->second;
    if (reader.flag(model, "fuse_unk", false)) reader.unknown("'fuse_unk'");
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary.find(std::string(1, static_cast<char>(byte)));
    token_of_byte[byte] = found == vocabulary.end() ? -1 : found->second;
  }
  const json& pairs = reader.list(model, "merges");
  std::int32_t rank = 0;
  for (const json& pair : pairs) {
    std::string left, right;
    if (pair.is_string()) {
      const std::string both = pair.get<std::string>();
      const std::size_t space = both.find(' ');
      if (space == std::string::npos) reader.refuse(formatted("has the merge '{}' of one", both));
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else if (pair.is_array() && pair.size() == 2 && pair[0].is_string() && pair[1].is_string()) {
      left = pair[0].get<std::string>();
      right = pair[1].get<std::string>();
    } else {
      reader.refuse(formatted("has merge {}, which is no pair of texts", rank));
    }
    const auto of = [&](const std::string& text) {
      const auto found = token_of_text.find(text);
      if (found == token_of_text.end()) {
        reader.refuse(
            formatted("merges '{}' and '{}', but its vocabulary lacks '{}'", left, right, text));
      }
      return found->second;
    };
    merges.try_emplace(pair_key(of(left), of(right)), Merge{rank++, of(left + right)});
  }
}

void Tokenizer::State::read_added(const Reader& reader, const json& added_tokens) {
  if (added_tokens.is_null()) return;
  if (!added_tokens.is_array()) reader.refuse("has 'added_tokens' that are no list");
  for (const json& item : added_tokens) {
    const std::string text = reader.text(item, "content");
    const std::int32_t token = reader.token(reader.member(item, "id"), formatted("'{}'", text));
    for (const char* condition : {"single_word", "lstrip", "rstrip"}) {
      if (reader.flag(item, condition, false)) {
        reader.unknown(formatted("the added token '{}' with '{}'", text, condition));
      }
    }
    if (text.empty()) continue;
    set(token, bytes_of_characters(text));
    token_of_text.insert_or_assign(text, token);
    special[static_cast<std::size_t>(token)] = reader.flag(item, "special", false);
    const std::size_t pass = reader.flag(item, "normalized", false) ? 1 : 0;
    added[pass][static_cast<unsigned char>(text[0])].push_back({text, token});
  }
  for (AddedTokens& kind : added) {
    for (auto& tokens : kind) {
      std::ranges::stable_sort(tokens, [](const AddedToken& a, const AddedToken& b) {
        return a.text.size() > b.text.size();
      });
    }
  }
}

void Tokenizer::State::read_cuts(const Reader& reader, const json& stage) {
  const std::string type = reader.text(stage, "type");
  const auto add = [&](const std::string& expression, bool literal = false) -> Cut& {
    Cut cut;
    try {
      cut.pattern.emplace(expression, literal);
    } catch (const InputError& error) {
      reader.refuse(formatted("cuts texts by an expression: {}", error.what()));
    }
    return cuts.emplace_back(std::move(cut));
  };
  if (type == "Sequence") {
    for (const json& part : reader.list(stage, "pretokenizers")) read_cuts(reader, part);
  } else if (type == "Digits") {
    add(reader.flag(stage, "individual_digits", false) ? "\\p{N}" : "\\p{N}+");
  } else if (type == "ByteLevel") {
    const bool space = reader.flag(stage, "add_prefix_space", true);
    if (reader.flag(stage, "use_regex", true)) {
      add(kGpt2Words).prefix_space = space;
    } else if (space) {
      cuts.emplace_back().prefix_space = true;
    }
  } else if (type == "Split") {
    const json& pattern = reader.member(stage, "pattern");
    const bool literal = !reader.member(pattern, "String").is_null();
    const std::string behaviour = reader.text(stage, "behavior");
    const bool invert = reader.flag(stage, "invert", false);
    const bool drops = behaviour == "Removed" && invert;
    if (behaviour != "Isolated" && !drops) {
      reader.unknown(formatted("the pre-tokenizer Split with '{}'", behaviour));
    }
    add(reader.text(pattern, literal ? "String" : "Regex"), literal).drops_rest = drops;
  } else {
    reader.unknown(formatted("the pre-tokenizer {}", type));
  }
}

void Tokenizer::State::read_template(const Reader& reader, const json& processor) {
  if (processor.is_null()) return;
  const std::string type = reader.text(processor, "type");
  if (type == "Sequence") {
    for (const json& part : reader.list(processor, "processors")) read_template(reader, part);
  } else if (type == "TemplateProcessing") {
    bool is_before = true;
    for (const json& part : reader.list(processor, "single")) {
      if (!reader.member(part, "Sequence").is_null()) {
        is_before = false;
        continue;
      }
      const std::string name = reader.text(reader.member(part, "SpecialToken"), "id");
      const json& own = reader.member(reader.member(processor, "special_tokens"), name.c_str());
      for (const json& value : reader.list(own, "ids")) {
        (is_before ? before : after).push_back(reader.token(value, formatted("'{}'", name)));
      }
    }
  } else if (type != "ByteLevel") {
    reader.unknown(formatted("the post-processor {}", type));
  }
}

Tokenizer::Tokenizer(const fs::path& file) : state_(std::make_unique<State>()) {
  const Reader reader(file.string());
  json content;
  {
    const MappedFile mapped(file);
    const std::span<const std::uint8_t> bytes = mapped.bytes();
    content = json::parse(bytes.begin(), bytes.end(), nullptr, /*allow_exceptions=*/false);
  }
  if (!content.is_object()) reader.refuse("is no JSON object, as a tokenizer.json is");
  for (const char* feature : {"normalizer", "truncation", "padding"}) {
    const json& value = reader.member(content, feature);
    if (!value.is_null()) reader.unknown(formatted("a {}", feature));
  }
  if (reader.member(content, "model").is_null())
    reader.refuse("has no 'model': is it a tokenizer?");
  state_->read_model(reader, reader.member(content, "model"));
  state_->read_added(reader, reader.member(content, "added_tokens"));
  const json& stages = reader.member(content, "pre_tokenizer");
  if (stages.is_null()) reader.unknown("no pre-tokenizer");
  if (stages.dump().find("\"ByteLevel\"") == std::string::npos) {
    reader.unknown("no pre-tokenizer ByteLevel");
  }
  state_->read_cuts(reader, stages);
  state_->read_template(reader, reader.member(content, "post_processor"));
  const json& decoder = reader.member(content, "decoder");
  if (!decoder.is_null() && reader.text(decoder, "type") != "ByteLevel") {
    reader.unknown(formatted("the decoder {}", reader.text(decoder, "type")));
  }
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::int64_t Tokenizer::vocabulary() const { return std::ssize(state_->bytes); }

/// Merges pairs of neighbours, always the pair of the lowest rank, the first of equals.
void Tokenizer::State::merge(std::string_view word, std::vector<std::int32_t>& tokens) const {
  struct Part {
    std::int32_t token;
    std::int32_t left, right;  // neighbours, -1 for none
  };
  std::vector<Part> parts;
  parts.reserve(word.size());
  for (const char byte : word) {
    std::int32_t token = token_of_byte[static_cast<unsigned char>(byte)];
    if (token < 0) token = unknown;
    if (token < 0) continue;
    const auto at = static_cast<std::int32_t>(parts.size());
    parts.push_back({token, at - 1, at + 1});
  }
  if (parts.empty()) return;
  parts.back().right = -1;
  struct Candidate {
    std::int32_t rank, at, left, right, token;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::int32_t at) {
    if (at < 0 || parts[static_cast<std::size_t>(at)].right < 0) return;
    const Part& left = parts[static_cast<std::size_t>(at)];
    const std::int32_t right = parts[static_cast<std::size_t>(left.right)].token;
    const auto found = merges.find(pair_key(left.token, right));
    if (found == merges.end()) return;
    queue.push({found->second.rank, at, left.token, right, found->second.token});
  };
  for (std::int32_t at = 0; at < static_cast<std::int32_t>(parts.size()); ++at) consider(at);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Part& left = parts[static_cast<std::size_t>(best.at)];
    // One of the two has become a part of another token since.
    if (left.token != best.left || left.right < 0 ||
        parts[static_cast<std::size_t>(left.right)].token != best.right) {
      continue;
    }
    Part& right = parts[static_cast<std::size_t>(left.right)];
    left.token = best.token;
    left.right = right.right;
    right.token = -1;
    if (left.right >= 0) parts[static_cast<std::size_t>(left.right)].left = best.at;
    consider(left.left);
    consider(best.at);
  }
  for (std::int32_t at = 0; at >= 0; at = parts[static_cast<std::size_t>(at)].right) {
    tokens.push_back(parts[static_cast<std::size_t>(at)].token);
  }
}

void Tokenizer::State::encode_new_word(std::string_view word,
                                       std::vector<std::int32_t>& tokens) const {
  const auto whole = whole_words ? vocabulary.find(std::string(word)) : vocabulary.end();
  if (whole != vocabulary.end()) {
    tokens.push_back(whole->second);
  } else {
    merge(word, tokens);
  }
}

void Tokenizer::State::encode_word(std::string_view word, std::vector<std::int32_t>& tokens) const {
  if (word.empty()) return;
  if (word.size() > kRememberedBytes) {
    encode_new_word(word, tokens);
    return;
  }
  std::string key(word);
  auto found = remembered.find(key);
  if (found == remembered.end()) {
    if (remembered.size() >= kRememberedWords) remembered.clear();
    std::vector<std::int32_t> own;
    encode_new_word(word, own);
    found = remembered.emplace(std::move(key), std::move(own)).first;
  }
  tokens.insert(tokens.end(), found->second.begin(), found->second.end());
}

void Tokenizer::State::cut(std::size_t stage, std::string_view text,
                           std::vector<std::int32_t>& tokens) const {
  if (text.empty()) return;
  if (stage == cuts.size()) {
    encode_word(text, tokens);
    return;
  }
  const Cut& own = cuts[stage];
  std::string with_space;
  if (own.prefix_space && text[0] != ' ') {
    with_space = " " + std::string(text);
    text = with_space;
  }
  if (!own.pattern) {
    cut(stage + 1, text, tokens);
    return;
  }
  std::size_t done = 0;
  std::size_t from = 0;
  while (from < text.size()) {
    const auto match = own.pattern->find(text, from);
    if (!match) break;
    const auto [begin, end] = *match;
    if (begin == end) {  // an empty match: look behind the next character
      from = begin;
      if (from < text.size()) next_character(text, from);
      continue;
    }
    if (!own.drops_rest) cut(stage + 1, text.substr(done, begin - done), tokens);
    cut(stage + 1, text.substr(begin, end - begin), tokens);
    done = from = end;
  }
  if (!own.drops_rest) cut(stage + 1, text.substr(done), tokens);
}

void Tokenizer::State::cut_added(const AddedTokens& kind, std::string_view text,
                                 std::vector<std::int32_t>& tokens,
                                 const std::function<void(std::string_view)>& rest) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto& candidates = kind[static_cast<unsigned char>(text[at])];
    const auto found = std::ranges::find_if(candidates, [&](const AddedToken& token) {
      return text.substr(at).starts_with(token.text);
    });
    if (found == candidates.end()) {
      ++at;
      continue;
    }
    if (at > done) rest(text.substr(done, at - done));
    tokens.push_back(found->token);
    at += found->text.size();
    done = at;
  }
  if (done < text.size()) rest(text.substr(done));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool whole) const {
  if (const auto place = first_invalid(text)) {
    throw InputError(formatted("the text is not UTF-8 (byte {})", *place));
  }
  std::vector<std::int32_t> tokens;
  const State& s = *state_;
  if (whole) tokens = s.before;
  s.cut_added(s.added[0], text, tokens, [&](std::string_view piece) {
    s.cut_added(s.added[1], piece, tokens, [&](std::string_view part) { s.cut(0, part, tokens); });
  });
  if (whole) tokens.insert(tokens.end(), s.after.begin(), s.after.end());
  return tokens;
}

std::string_view Tokenizer::bytes_of(std::int64_t token) const {
  if (token < 0 || token >= std::ssize(state_->bytes)) return {};
  return state_->bytes[static_cast<std::size_t>(token)];
}

bool Tokenizer::is_special(std::int64_t token) const {
  return token >= 0 && token < std::ssize(state_->special) &&
         state_->special[static_cast<std::size_t>(token)];
}

std::int64_t Tokenizer::token_of(std::string_view text) const {
  const auto found = state_->token_of_text.find(std::string(text));
  return found == state_->token_of_text.end() ? -1 : found->second;
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens, bool special) const {
  CharacterStream stream;
  std::string text;
  for (const std::int32_t token : tokens) {
    if (special || !is_special(token)) text += stream.push(bytes_of(token));
  }
  return text + stream.finish();
}

namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";

/// Length of the longest beginning of a character at the start of the bytes, which are no
/// character; at least 1. `may_go_on`: it is all of the bytes, and more bytes could complete it.
std::size_t beginning(std::string_view bytes, bool& may_go_on) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = byte(0);
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  may_go_on = false;
  if (lead < 0xc2 || lead > 0xf4) return 1;
  std::size_t count = 1;
  while (count < length && count < bytes.size()) {
    unsigned least = 0x80;
    unsigned most = 0xbf;
    if (count == 1) {
      if (lead == 0xe0) least = 0xa0;
      if (lead == 0xed) most = 0x9f;
      if (lead == 0xf0) least = 0x90;
      if (lead == 0xf4) most = 0x8f;
    }
    if (byte(count) < least || byte(count) > most) return count;
    ++count;
  }
  may_go_on = count < length;
  return count;
}

}  // namespace

std::string CharacterStream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string text;
  std::size_t at = 0;
  while (at < pending_.size()) {
    const std::size_t begin = at;
    if (next_character(pending_, at)) {
      text.append(pending_, begin, at - begin);
      continue;
    }
    bool may_go_on = false;
    const std::size_t count = beginning(std::string_view(pending_).substr(begin), may_go_on);
    if (may_go_on) break;
    text += kReplacement;
    at = begin + count;
  }
  pending_.erase(0, at);
  return text;
}

std::string CharacterStream::finish() {
  const bool rest = !pending_.empty();
  pending_.clear();
  return rest ? kReplacement : "";
}

}  // namespace espalier
