// Text and AG News: the place of each token, the vocabulary, and refusals.

#include <algorithm>
#include <map>
#include <set>

#include "espalier/base/error.h"
#include "fixture.h"

namespace espalier {
namespace {

std::vector<std::int64_t> row(const at::Tensor& tensor, std::int64_t index) {
  const at::Tensor own = tensor[index].contiguous();
  const std::int64_t* first = own.const_data_ptr<std::int64_t>();
  return {first, first + own.numel()};
}

using Tokens = std::vector<std::int64_t>;

class Text : public DataFolder {
 protected:
  std::string refusal(const std::string& settings = "") const {
    return data_error([&] { load("text", "file = a.txt\n" + settings); });
  }
};

TEST_F(Text, WindowsOfBytesLieSideBySideAndLabelsAreOnePlaceOn) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>(i + 100);
  write("a.txt", text);
  const Dataset data = load("text", "file = a.txt\nlength = 4\n");
  EXPECT_TRUE(data.shape.next_token);
  EXPECT_EQ(data.shape.vocabulary, 256);
  EXPECT_EQ(data.shape.classes, 256);
  EXPECT_EQ(data.shape.sample, (Tokens{4}));
  // 90 bytes train and 10 test; a window needs one more than its length: (90 - 1) / 4, (10 - 1)
  // / 4.
  ASSERT_EQ(data.train->size(), 22);
  ASSERT_EQ(data.test->size(), 2);
  EXPECT_EQ(data.train->label(3), 0);
  const Tokens indices{21, 0};
  const at::Tensor x = data.train->inputs(indices);
  const at::Tensor y = data.train->labels(indices);
  ASSERT_EQ(x.scalar_type(), at::kLong);
  ASSERT_EQ(x.sizes(), (Tokens{2, 4}));
  ASSERT_EQ(y.sizes(), (Tokens{2, 4}));
  EXPECT_EQ(row(x, 0), (Tokens{184, 185, 186, 187}));
  EXPECT_EQ(row(y, 0), (Tokens{185, 186, 187, 188}));
  EXPECT_EQ(row(x, 1), (Tokens{100, 101, 102, 103}));
  EXPECT_EQ(row(data.test->inputs(Tokens{1}), 0), (Tokens{194, 195, 196, 197}));
  EXPECT_EQ(load("text", "file = a.txt\nlength = 4\ntrain_limit = 5\n").train->size(), 5);
}

TEST_F(Text, AFolderHasATextForEachClient) {
  const auto bytes = [](int first, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += static_cast<char>(first + i);
    return text;
  };
  write("authors/berta.txt", bytes(160, 40));  // 36 train, 4 test
  write("authors/anna.txt", bytes(30, 60));    // 54 train, 6 test
  write("authors/notes.md", std::string("no text of an author"));
  write("authors/.hidden.txt", std::string("x"));
  const std::string folder = "file = authors\nlength = 5\n";
  const Dataset data = load("text", folder);
  EXPECT_EQ(data.files.size(), 2U);
  // (54 - 1) / 5 windows of anna, (36 - 1) / 5 of berta; no window has tokens of both.
  std::vector<std::int32_t> clients(10, 0);
  clients.resize(17, 1);
  EXPECT_EQ(data.client_of, clients);
  ASSERT_EQ(data.train->size(), 17);
  EXPECT_EQ(row(data.train->inputs(Tokens{9}), 0), (Tokens{75, 76, 77, 78, 79}));
  EXPECT_EQ(row(data.train->inputs(Tokens{10}), 0), (Tokens{160, 161, 162, 163, 164}));
  EXPECT_EQ(row(data.train->labels(Tokens{16}), 0), (Tokens{191, 192, 193, 194, 195}));
  // Berta's four test bytes are too few for a window.
  ASSERT_EQ(data.test->size(), 1);
  EXPECT_EQ(row(data.test->inputs(Tokens{0}), 0), (Tokens{84, 85, 86, 87, 88}));
  EXPECT_EQ(load("text", folder + "train_limit = 12\n").client_of.size(), 12U);
  write("authors/carl.txt", std::string("abcde"));
  EXPECT_MENTIONS(data_error([&] { load("text", folder); }),
                  "carl.txt has 5 tokens to train on, too few for one window of data.length = 5");
  EXPECT_MENTIONS(data_error([&] { load("text", "file = .\n"); }), "has no file NAME.txt");
}

TEST_F(Text, TheWordsOfAllClientsAreOneVocabulary) {
  std::string first, second;
  for (int i = 0; i < 20; ++i) first += "sun ";
  for (int i = 0; i < 18; ++i) second += "rain ";
  write("authors/a.txt", first);                 // 18 train, 2 test
  write("authors/b.txt", second + "snow hail");  // 18 train, 2 test
  const Dataset data =
      load("text", "file = authors\nlength = 1\ntokens = words\nvocabulary = 20\n");
  EXPECT_EQ(data.words, "<pad>\n<unk>\nrain\nsun");
  EXPECT_EQ(row(data.train->inputs(Tokens{0, 17}), 0), (Tokens{3}));
  EXPECT_EQ(row(data.train->inputs(Tokens{0, 17}), 1), (Tokens{2}));
  ASSERT_EQ(data.test->size(), 2);
  EXPECT_EQ(row(data.test->inputs(Tokens{1}), 0), (Tokens{1}));
}

TEST_F(Text, BytesAboveAsciiAreTokensToo) {
  write("a.txt", Bytes(200, 0xff));
  const Dataset data = load("text", "file = a.txt\nlength = 2\n");
  EXPECT_EQ(row(data.train->inputs(Tokens{0}), 0), (Tokens{255, 255}));
}

TEST_F(Text, WordsAreLowerCasedAndRankedByTheirTrainingFrequency) {
  // 40 words, of which 36 train: "the" 16 times, "," 9, "a" and "it's" 5, "dog" once. "zebra" is
  // only in the test part, where it is the most frequent.
  std::string text = "dog The, A it's\n";
  for (int i = 0; i < 4; ++i) text += "the,\tTHE, A  It's ";
  for (int i = 0; i < 7; ++i) text += "the\n";
  write("a.txt", text + "zebra , zebra it's");
  const std::string settings = "file = a.txt\ntokens = words\nlength = 3\nvocabulary = ";
  const Dataset data = load("text", settings + "6\n");
  EXPECT_EQ(data.shape.vocabulary, 6);
  EXPECT_EQ(data.shape.classes, 6);
  EXPECT_EQ(data.train->size(), (36 - 1) / 3);
  EXPECT_EQ(row(data.train->inputs(Tokens{0}), 0), (Tokens{1, 2, 3}));
  EXPECT_EQ(row(data.train->labels(Tokens{0}), 0), (Tokens{2, 3, 4}));
  EXPECT_EQ(row(data.train->inputs(Tokens{1}), 0), (Tokens{4, 5, 2}));
  ASSERT_EQ(data.test->size(), 1);
  EXPECT_EQ(row(data.test->inputs(Tokens{0}), 0), (Tokens{1, 3, 1}));
  EXPECT_EQ(row(data.test->labels(Tokens{0}), 0), (Tokens{3, 1, 5}));
  // With room for more, "dog" has a token, and the last ones are never used.
  const Dataset large = load("text", settings + "50\n");
  EXPECT_EQ(large.shape.vocabulary, 50);
  EXPECT_EQ(row(large.train->inputs(Tokens{0}), 0), (Tokens{6, 2, 3}));
  EXPECT_EQ(row(large.test->inputs(Tokens{0}), 0), (Tokens{1, 3, 1}));
}

TEST_F(Text, FilesThatMakeNoTextAreRefused) {
  EXPECT_MENTIONS(refusal(), "a.txt is missing");
  write("a.txt", std::string());
  EXPECT_MENTIONS(refusal(), "a.txt is empty");
  write("a.txt", std::string(" \n\t "));
  EXPECT_MENTIONS(refusal("tokens = words\n"), "0 tokens");
  write("a.txt", std::string(649, 'x'));
  EXPECT_MENTIONS(refusal(), "data.length = 64");
  write("a.txt", std::string(650, 'x'));  // a tenth is 65: one window and its last label
  EXPECT_EQ(refusal(), "accepted");
  write_gz("a.txt", Bytes(9000, 'x'));
  EXPECT_MENTIONS(refusal(), "gzip");
  std::filesystem::remove(folder_ / "a.txt");
  std::filesystem::create_directories(folder_ / "a.txt");
  EXPECT_MENTIONS(refusal(), "has no file NAME.txt");
}

TEST_F(Text, PunctuationOfAnyScriptSeparatesWords) {
  // Each of these is one word or several, which are separated by spaces here; U+2019 is a quote
  // too.
  const std::vector<std::pair<std::string, std::string>> texts{
      {"“Ja”—she’d said…", "“ ja ” — she ’ d said …"},
      {"naïve\u00a0Élan\u2003don't", "naïve Élan don't"},
      {"पानी।पानी", "पानी । पानी"},
      {"a\u200bb c\u00add", "a b c\u00add"},
      {"是的，好。", "是的 ， 好 。"},
      {"5€×2₂ ½", "5 € × 2₂ ½"}};
  const auto tokens = [&](const std::string& text) {
    std::string repeated;
    for (int i = 0; i < 60; ++i) repeated += text + " ";
    write("a.txt", repeated);
    const Dataset data = load("text", "file = a.txt\ntokens = words\nlength = 1\n");
    return data.train->inputs(all_of(data.train->size()));
  };
  for (const auto& [text, spaced] : texts) {
    EXPECT_TRUE(at::equal(tokens(text), tokens(spaced))) << text;
    const auto words = 1 + std::count(spaced.begin(), spaced.end(), ' ');
    EXPECT_EQ(tokens(text).size(0), 60 * words - 60 * words / 10 - 1) << text;
  }
}

TEST_F(Text, WhatIsNotUtf8IsRefusedAndAMarkIsSkipped) {
  const std::string words = "tokens = words\nlength = 2\n";
  std::string text;
  for (int i = 0; i < 40; ++i) text += "one two\n";
  write("a.txt", text);
  const Dataset plain = load("text", "file = a.txt\n" + words);
  write("a.txt", "\xef\xbb\xbf" + text);
  const Dataset marked = load("text", "file = a.txt\n" + words);
  EXPECT_TRUE(at::equal(plain.train->inputs(all_of(3)), marked.train->inputs(all_of(3))));
  std::string wide;  // UTF-16, little-endian
  for (const char c : text) wide += {c, '\0'};
  for (const char* mark : {"\xff\xfe", ""}) {
    write("a.txt", mark + wide);
    EXPECT_MENTIONS(refusal(words), "a.txt is text in UTF-16");
  }
  // Latin-1; a character cut off; an overlong one; half of a UTF-16 pair; beyond the last.
  for (const char* bad : {"\xfc"
                          "ber",
                          "\xe2\x80", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80"}) {
    write("a.txt", text + bad);
    EXPECT_MENTIONS(refusal(words), "a.txt is not text in UTF-8 (line 41)");
    EXPECT_EQ(refusal("length = 2\n"), "accepted");  // bytes are bytes
  }
}

class AgNews : public DataFolder {
 protected:
  /// `count` rows; row i has class i mod 4 + 1 and the words "w<i> common".
  static std::string rows(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) {
      text += "\"" + std::to_string(i % 4 + 1) + "\",\"W" + std::to_string(i) + "\",\"common\"\n";
    }
    return text;
  }
  std::string refusal() const {
    return data_error([&] { load("agnews"); });
  }
};

TEST_F(AgNews, RowsBecomeWordsOfOneLength) {
  write("ag_news_csv/train.csv",
        std::string("\"3\",\"Wall, \"\"Street\"\"\",\"Bears\\claw #39;s back\"\n"
                    "\"1\",\"wall\",\"claw claw\"\n"));
  write("ag_news_csv/test.csv", std::string("\"4\",\"Claw\",\"unseen wall\"\n"));
  const Dataset data = load("agnews", "length = 8\nvocabulary = 100\n");
  EXPECT_FALSE(data.shape.next_token);
  EXPECT_EQ(data.shape.vocabulary, 100);
  EXPECT_EQ(data.shape.classes, 4);
  EXPECT_EQ(data.files.size(), 2U);
  ASSERT_EQ(data.train->size(), 2);
  EXPECT_EQ(data.train->label(0), 2);
  EXPECT_EQ(data.train->label(1), 0);
  EXPECT_EQ(data.test->label(0), 3);
  // Row 1 has eight words: wall , " street " bears claw's back. Counted over both rows: " 2, claw
  // 2, wall 2, then once each, in order of their bytes: , back bears claw's street.
  const at::Tensor x = data.train->inputs(Tokens{0, 1});
  ASSERT_EQ(x.scalar_type(), at::kLong);
  EXPECT_EQ(row(x, 0), (Tokens{4, 5, 2, 9, 2, 7, 8, 6}));
  EXPECT_EQ(row(x, 1), (Tokens{4, 3, 3, 0, 0, 0, 0, 0}));
  EXPECT_EQ(row(data.test->inputs(Tokens{0}), 0), (Tokens{3, 1, 4, 0, 0, 0, 0, 0}));
  // A smaller vocabulary keeps the most frequent words, here " and claw; a smaller length cuts the
  // samples, not the counted words.
  const Dataset small = load("agnews", "length = 3\nvocabulary = 4\n");
  EXPECT_EQ(row(small.train->inputs(Tokens{0}), 0), (Tokens{1, 1, 2}));
}

TEST_F(AgNews, WithoutTheTrainingFileTheFirstRowsOfTheTestFileTrain) {
  write("test.csv", rows(6007));
  const Dataset data = load("agnews", "length = 2\nvocabulary = 10000\n");
  ASSERT_EQ(data.train->size(), 6000);
  ASSERT_EQ(data.test->size(), 7);
  EXPECT_EQ(data.train->label(5999), 5999 % 4);
  EXPECT_EQ(data.test->label(0), 6000 % 4);
  // "common" is the most frequent word; the words of the test rows are unknown.
  EXPECT_EQ(row(data.test->inputs(Tokens{6}), 0), (Tokens{1, 2}));
  const Dataset part = load("agnews", "length = 2\ntrain_limit = 9\ntest_limit = 5\n");
  EXPECT_EQ(part.train->size(), 9);
  EXPECT_EQ(part.test->size(), 5);
  EXPECT_EQ(part.test->label(0), 6000 % 4);
}

TEST_F(AgNews, DamagedRowsAreNamedByFileAndLine) {
  EXPECT_MENTIONS(refusal(), "test.csv");
  EXPECT_MENTIONS(refusal(), "ESPALIER_DATA");
  write("test.csv", rows(6000));
  EXPECT_MENTIONS(refusal(), "6000 rows");
  write("train.csv", rows(20));
  EXPECT_EQ(refusal(), "accepted");
  const std::map<std::string, std::string> damages{
      {"\"5\",\"a\",\"b\"\n", "class '5'"},     {"\"0\",\"a\",\"b\"\n", "class '0'"},
      {"\"x\",\"a\",\"b\"\n", "class 'x'"},     {"\"1\",\"a\"\n", "2 cells"},
      {"\"1\",\"a\",\"b\",\"c\"\n", "4 cells"}, {"\"1\",\"a\",\"b\n", "never closed"},
      {"\"1\",\"a\"x,\"b\"\n", "followed by"},  {"\"1\",\"\",\" \"\n", "no words"}};
  for (const auto& [line, word] : damages) {
    write("train.csv", rows(20) + line);
    EXPECT_MENTIONS(refusal(), word);
    EXPECT_MENTIONS(refusal(), "train.csv line 21");
  }
  write("train.csv", std::string("\n"));
  EXPECT_MENTIONS(refusal(), "no rows");
}

TEST(RealData, ShakespeareHasItsPublishedSize) {
  if (!real_data()) GTEST_SKIP() << "skipped: ESPALIER_DATA names no folder with tinyshakespeare";
  const std::string folder = "[data]\nname = text\ndir = " + std::string(real_data()) + "\n";
  const Dataset data = load_dataset(data_config(folder + "length = 64\n"));
  // 1,115,394 bytes: 1,003,855 train, 111,539 test.
  EXPECT_EQ(data.train->size(), 1003854 / 64);
  EXPECT_EQ(data.test->size(), 111538 / 64);
  const at::Tensor x = data.train->inputs(all_of(data.train->size()));
  const at::Tensor y = data.train->labels(all_of(data.train->size()));
  // "First Citizen:\n" opens the text; of its 65 different characters all occur in training.
  const std::string opening = "First Citizen:\n";
  EXPECT_EQ(Tokens(opening.begin(), opening.end()),
            row(x.slice(1, 0, static_cast<std::int64_t>(opening.size())), 0));
  const at::Tensor flat = x.flatten();
  const std::set<std::int64_t> used(flat.const_data_ptr<std::int64_t>(),
                                    flat.const_data_ptr<std::int64_t>() + flat.numel());
  EXPECT_EQ(used.size(), 65U);
  EXPECT_TRUE(at::equal(flat.slice(0, 1), y.flatten().slice(0, 0, flat.numel() - 1)));
}

TEST(RealData, AgNewsHasItsPublishedRows) {
  if (!real_data()) GTEST_SKIP() << "skipped: ESPALIER_DATA names no folder with AG News";
  const Dataset data =
      load_dataset(data_config("[data]\nname = agnews\ndir = " + std::string(real_data()) + "\n"));
  // 120,000 + 7,600 rows, as many of each class; or only the 7,600, 6,000 of which train.
  const bool both = data.files.size() == 2;
  EXPECT_EQ(data.train->size(), both ? 120000 : 6000);
  EXPECT_EQ(data.test->size(), both ? 7600 : 1600);
  std::map<std::int64_t, int> counts;
  for (std::int64_t i = 0; i < data.test->size(); ++i) ++counts[data.test->label(i)];
  if (!both) {
    for (std::int64_t i = 0; i < data.train->size(); ++i) ++counts[data.train->label(i)];
  }
  EXPECT_EQ(counts, (std::map<std::int64_t, int>{{0, 1900}, {1, 1900}, {2, 1900}, {3, 1900}}));
}

}  // namespace
}  // namespace espalier
