// A tokenizer of few merges: tokens by hand, added tokens, text from parts of characters, and
// refusals. tests/cli/tokenizer_test.py compares real ones with the package `tokenizers`.

#include "espalier/data/tokenizer.h"

#include <array>
#include <nlohmann/json.hpp>

#include "espalier/data/text_codec.h"
#include "fixture.h"

namespace espalier {
namespace {

using nlohmann::json;
using Tokens = std::vector<std::int32_t>;

void append_character(std::string& text, int c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else {
    text += static_cast<char>(0xc0 | c >> 6);
    text += static_cast<char>(0x80 | (c & 0x3f));
  }
}

/// Token b is byte b in GPT-2's alphabet.
json byte_vocabulary() {
  json words = json::object();
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_visible = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    std::string text;
    append_character(text, is_visible ? byte : next++);
    words[text] = byte;
  }
  return words;
}

/// 256 "he", 257 "ll", 258 "hell", 259 " h" (the space is U+0120 in the alphabet), 260 "aa",
/// 261 "ha"; added: 262 and 263 special, 264 not.
json example() {
  json words = byte_vocabulary();
  const std::string space = "\u0120";
  words["he"] = 256;
  words["ll"] = 257;
  words["hell"] = 258;
  words[space + "h"] = 259;
  words["aa"] = 260;
  words["ha"] = 261;
  const auto added = [](int token, const char* text, bool special) {
    return json{{"id", token},     {"content", text},     {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", special}};
  };
  json file;
  file["added_tokens"] = {added(262, "<a>", true), added(263, "<a><b>", true),
                          added(264, "word", false)};
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  file["decoder"] = {{"type", "ByteLevel"}};
  file["model"] = {{"type", "BPE"},
                   {"vocab", words},
                   {"merges", {"h e", "l l", "he ll", space + " h", "a a", "h a"}}};
  return file;
}

class TokenizerFile : public DataFolder {
 protected:
  Tokenizer made(const json& content) const {
    write("tokenizer.json", content.dump());
    return Tokenizer(folder_ / "tokenizer.json");
  }
  std::string refusal(const json& content) const {
    return data_error([&] { made(content); });
  }
};

TEST_F(TokenizerFile, MergesInOrderOfTheirRank) {
  const Tokenizer t = made(example());
  EXPECT_EQ(t.vocabulary(), 265);
  EXPECT_EQ(t.encode("hello"), (Tokens{258, 'o'}));
  // " h" comes after "he", so the space stays alone.
  EXPECT_EQ(t.encode("hello hello"), (Tokens{258, 'o', ' ', 258, 'o'}));
  EXPECT_EQ(t.encode(" hi"), (Tokens{259, 'i'}));
  // The first of equal pairs is merged first; then "a a" wins against the later "h a".
  EXPECT_EQ(t.encode("aaa"), (Tokens{260, 'a'}));
  EXPECT_EQ(t.encode("haa"), (Tokens{'h', 260}));
  EXPECT_EQ(t.encode("hha"), (Tokens{'h', 261}));
  EXPECT_EQ(t.encode(""), Tokens{});
  EXPECT_EQ(t.encode("\xc3\xa9"), (Tokens{0xc3, 0xa9}));
  const std::string many(501, 'a');
  EXPECT_EQ(std::ssize(t.encode(many)), 251);
}

TEST_F(TokenizerFile, AddedTokensAreTakenFirstAndTheLongest) {
  const Tokenizer t = made(example());
  EXPECT_EQ(t.encode("<a>he<a><b>word<a"), (Tokens{262, 256, 263, 264, '<', 'a'}));
  EXPECT_TRUE(t.is_special(262));
  EXPECT_FALSE(t.is_special(264));
  EXPECT_FALSE(t.is_special(1000));
  EXPECT_EQ(t.token_of("<a><b>"), 263);
  EXPECT_EQ(t.token_of("none"), -1);
  EXPECT_EQ(t.decode(t.encode("<a>hello word")), "hello word");
  EXPECT_EQ(t.decode(t.encode("<a>hello word"), true), "<a>hello word");
}

TEST_F(TokenizerFile, ATemplateGoesAroundWholeTexts) {
  json file = example();
  file["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<a>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}}}}}},
      {"special_tokens", {{"<a>", {{"id", "<a>"}, {"ids", {262}}, {"tokens", {"<a>"}}}}}}};
  EXPECT_EQ(made(file).encode("he"), (Tokens{262, 256}));
  EXPECT_EQ(made(file).encode("he", false), (Tokens{256}));
}

TEST_F(TokenizerFile, BytesWithoutTokenAreUnknownOrLeftOut) {
  json file = example();
  file["model"]["vocab"].erase("z");
  EXPECT_EQ(made(file).encode("hzh"), (Tokens{'h', 'h'}));
  file["model"]["unk_token"] = "?";
  EXPECT_EQ(made(file).encode("hzh"), (Tokens{'h', '?', 'h'}));
}

TEST_F(TokenizerFile, OtherCutsOfText) {
  json file = example();
  const json bytes{{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", false}};
  file["pre_tokenizer"] = bytes;
  EXPECT_EQ(made(file).encode("hi hi"), (Tokens{259, 'i', 259, 'i'}));
  const auto split = [&](const char* kind, const char* text, const char* behaviour, bool invert) {
    json own = file;
    const json stage{{"type", "Split"},
                     {"pattern", {{kind, text}}},
                     {"behavior", behaviour},
                     {"invert", invert}};
    const json plain{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
    own["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {stage, plain}}};
    return own;
  };
  // "." is a character of its own, not any character.
  EXPECT_EQ(made(split("String", ".", "Isolated", false)).encode("ll.ll"), (Tokens{257, '.', 257}));
  EXPECT_EQ(made(split("Regex", "l", "Isolated", false)).encode("ll"), (Tokens{'l', 'l'}));
  EXPECT_EQ(made(split("Regex", "l+", "Removed", true)).encode("xllx"), (Tokens{257}));
  EXPECT_MENTIONS(refusal(split("Regex", "l", "MergedWithNext", false)), "MergedWithNext");
  EXPECT_MENTIONS(refusal(split("Regex", "(l", "Isolated", false)), "(l");
}

TEST_F(TokenizerFile, WhatIsUnknownIsNamed) {
  const auto with = [](const char* name, json value) {
    json file = example();
    file[name] = std::move(value);
    return file;
  };
  EXPECT_MENTIONS(refusal(with("normalizer", {{"type", "NFC"}})), "normalizer");
  EXPECT_MENTIONS(refusal(with("truncation", {{"max_length", 5}})), "truncation");
  EXPECT_MENTIONS(refusal(with("decoder", {{"type", "WordPiece"}})), "WordPiece");
  EXPECT_MENTIONS(refusal(with("pre_tokenizer", nullptr)), "pre-tokenizer");
  EXPECT_MENTIONS(refusal(with("pre_tokenizer", {{"type", "Metaspace"}})), "ByteLevel");
  EXPECT_MENTIONS(refusal(with("post_processor", {{"type", "BertProcessing"}})), "BertProcessing");
  EXPECT_MENTIONS(refusal(with("model", nullptr)), "'model'");
  for (const auto& [key, value] : {std::pair<const char*, json>{"type", "Unigram"},
                                   {"dropout", 0.1},
                                   {"byte_fallback", true}}) {
    json file = example();
    file["model"][key] = value;
    EXPECT_NE(refusal(file), "accepted") << key;
  }
  json file = example();
  file["model"]["merges"].push_back("no pair");
  EXPECT_MENTIONS(refusal(file), "lacks");
  file = example();
  file["model"]["vocab"]["bad"] = -3;
  EXPECT_MENTIONS(refusal(file), "bad");
  file = example();
  file["added_tokens"][0]["lstrip"] = true;
  EXPECT_MENTIONS(refusal(file), "lstrip");
  write("tokenizer.json", std::string("{\"model\": "));
  EXPECT_MENTIONS(data_error([&] { Tokenizer(folder_ / "tokenizer.json"); }), "JSON");
  EXPECT_MENTIONS(data_error([&] { Tokenizer(folder_ / "none.json"); }), "none.json");
}

TEST_F(TokenizerFile, ATextIsUtf8) { EXPECT_THROW(made(example()).encode("a\xff"), InputError); }

TEST(CharacterStream, KeepsBeginningsAndReplacesWhatIsNoCharacter) {
  CharacterStream stream;
  EXPECT_EQ(stream.push("a\xf0\x9f"), "a");
  EXPECT_EQ(stream.push("\x99"), "");
  EXPECT_EQ(stream.push("\x82z"), "\xf0\x9f\x99\x82z");
  EXPECT_EQ(stream.finish(), "");
  const std::string mark = "\xef\xbf\xbd";
  // As Python's bytes.decode(errors="replace").
  EXPECT_EQ(stream.push("\xf0\x9f"
                        "a"),
            mark + "a");
  EXPECT_EQ(stream.push("\xff\x80\xc0\xaf"), mark + mark + mark + mark);
  EXPECT_EQ(stream.push("\xed\xa0\x80"), mark + mark + mark);
  EXPECT_EQ(stream.push("\xe2\x82"), "");
  EXPECT_EQ(stream.finish(), mark);
}

TEST(TextCodec, BytesAndWords) {
  const auto bytes = byte_codec();
  EXPECT_EQ(bytes->encode("a\xff"), (std::vector<std::int64_t>{'a', 255}));
  EXPECT_EQ(bytes->bytes_of(255, true), "\xff");
  EXPECT_EQ(bytes->vocabulary(), 256);
  const auto words = word_codec("<pad>\n<unk>\nthe\ncat");
  EXPECT_EQ(words->vocabulary(), 4);
  EXPECT_EQ(words->encode("The cat sat"), (std::vector<std::int64_t>{2, 3, 1}));
  EXPECT_EQ(words->bytes_of(2, true) + words->bytes_of(3, false), "the cat");
  EXPECT_THROW(words->encode("\xff"), InputError);
}

}  // namespace
}  // namespace espalier
