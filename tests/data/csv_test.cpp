// The user's own tables: the meaning of columns, and rows that are refused by file and line.

#include <algorithm>
#include <cmath>
#include <map>

#include "fixture.h"

namespace espalier {
namespace {

using Indices = std::vector<std::int64_t>;

class Csv : public DataFolder {
 protected:
  std::string refusal(const std::string& settings = "") const {
    return data_error([&] { load("csv", "file = a.csv\n" + settings); });
  }
};

at::Tensor whole(const Split& split) { return split.inputs(all_of(split.size())); }

TEST_F(Csv, NumbersAreFeaturesAndTheLastColumnIsTheClass) {
  write("a.csv", std::string("age,\"height, cm\",class\r\n1, 2.5 ,0\r\n\r\n-3, 4e1 ,1\r\n"));
  write("b.csv", std::string("age,\"height, cm\",class\n7,8,1\n"));
  const Dataset data = load("csv", "file = a.csv\ntest_file = b.csv\n");
  EXPECT_EQ(data.files.size(), 2U);
  EXPECT_EQ(data.shape.sample, (Indices{2}));
  EXPECT_EQ(data.shape.classes, 2);
  EXPECT_TRUE(at::equal(whole(*data.train),
                        at::tensor({1.0, 2.5, -3.0, 40.0}).view({2, 2}).to(at::kFloat)));
  EXPECT_TRUE(at::equal(whole(*data.test), at::tensor({7.0, 8.0}).view({1, 2}).to(at::kFloat)));
  EXPECT_EQ(data.train->label(1), 1);
}

TEST_F(Csv, NormalisationTakesALargeOffsetAway) {
  std::string rows = "time,class\n";
  for (int i = 0; i < 100; ++i)
    rows += std::to_string(1700000000 + i) + "," + (i % 2 ? "1\n" : "0\n");
  write("a.csv", rows);
  const Dataset data = load("csv", "file = a.csv\ntest_file = a.csv\nnormalise = computed\n");
  EXPECT_DOUBLE_EQ(data.normalisation.mean[0], 1700000049.5);
  // Of n consecutive numbers: sqrt((n^2 - 1) / 12).
  const double deviation = std::sqrt(9999.0 / 12);
  EXPECT_NEAR(data.normalisation.deviation[0], deviation, 1e-9);
  const at::Tensor expected = ((at::arange(100, at::kDouble) - 49.5) / deviation).view({100, 1});
  EXPECT_LT((whole(*data.train) - expected).abs().max().item<double>(), 2e-7);
}

TEST_F(Csv, ASampleIsNotTakenForNames) {
  const auto refused = [&](const std::string& text) -> std::string {
    write("a.csv", text);
    try {
      load("csv", "file = a.csv\ntest_file = a.csv\n");
    } catch (const InputError& error) {
      return error.what();
    }
    return "accepted";
  };
  const std::string advice =
      "a.csv line 1 holds numbers alone; if it is a sample, set "
      "data.csv_header = false";
  for (const char* line :
       {"3,5,0\n", "2,2,0\n", "-1.5, 1e3 ,0\n", "\"4\",,1\n", "1,2,3\n", ",2,1\n"}) {
    EXPECT_MENTIONS(refused(line + std::string("1,2,0\n2,4,1\n")), advice);
  }
  // As pandas names columns without names, with its index and without.
  for (const char* line : {"0,1,2\n", ",0,1\n", "0,1,class\n"}) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(refused(line + std::string("1,2,0\n2,4,1\n")), "accepted");
    ::testing::internal::GetCapturedStderr();
  }
  write("a.csv", std::string("3,5,0\n4,6,1\n"));
  EXPECT_EQ(load("csv", "file = a.csv\ntest_file = a.csv\ncsv_header = false\n").train->size(), 2);
}

TEST_F(Csv, ColumnsAreChosenByNameOrNumber) {
  const std::string rows = "0,5,1\n1,6,0\n2,7,1\n";
  write("a.csv", "who,what,class\n" + rows);
  write("b.csv", rows);
  const std::string test = "test_file = ";
  const Dataset named =
      load("csv", "file = a.csv\ntest_file = a.csv\ncsv_label = class\ncsv_client = who\n");
  EXPECT_EQ(named.shape.sample, (Indices{1}));
  EXPECT_EQ(named.client_of, (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(whole(*named.train)[2][0].item<float>(), 7);
  const Dataset numbered = load(
      "csv", "file = b.csv\ntest_file = b.csv\ncsv_header = false\ncsv_label = 0\nclasses = 5\n");
  EXPECT_EQ(numbered.shape.classes, 5);
  EXPECT_EQ(numbered.train->label(2), 2);
  EXPECT_EQ(whole(*numbered.train)[2][1].item<float>(), 1);
  EXPECT_THROW(load("csv", "file = a.csv\ncsv_label = kind\n"), InputError);
  EXPECT_THROW(load("csv", "file = a.csv\ncsv_client = 3\n"), InputError);
}

TEST_F(Csv, TextsBecomeWordsOfOneLength) {
  const auto row = [](const Split& split, std::int64_t index) {
    const at::Tensor x = split.inputs(Indices{index});
    return Indices(x.data_ptr<std::int64_t>(), x.data_ptr<std::int64_t>() + x.numel());
  };
  write("a.csv", std::string("id;author;note;mood;title\n"
                             "17;1;Rain, rain!;sad;Oslo\n"
                             "18;0;rain over oslo again and again;glad;\n"));
  write("b.csv", std::string("id;author;note;mood;title\n"
                             "19;2;unseen unseen Again;sad;Rain\n"));
  const std::string settings =
      "file = a.csv\ntest_file = b.csv\ncsv_separator = semicolon\ncsv_label = mood\n"
      "csv_client = author\n";
  // Training words: rain 3, again 2, oslo 2, then once each: ! , and over.
  const Dataset data =
      load("csv", settings + "csv_text = title, note\nlength = 7\nvocabulary = 50\n");
  EXPECT_FALSE(data.shape.next_token);
  EXPECT_EQ(data.shape.vocabulary, 50);
  EXPECT_EQ(data.shape.sample, (Indices{7}));
  EXPECT_EQ(data.words, "<pad>\n<unk>\nrain\nagain\noslo\n!\n,\nand\nover");
  EXPECT_EQ(row(*data.train, 0), (Indices{4, 2, 6, 2, 5, 0, 0}));
  EXPECT_EQ(row(*data.train, 1), (Indices{2, 8, 4, 3, 7, 3, 0}));
  EXPECT_EQ(row(*data.test, 0), (Indices{2, 1, 1, 3, 0, 0, 0}));
  EXPECT_EQ(data.train->label(0), 1);
  EXPECT_EQ(data.client_of, (std::vector<std::int32_t>{1, 0}));
  // Words beyond the length count all the same, those of rows that do not train do not.
  const Dataset small =
      load("csv", settings + "csv_text = 2\nlength = 2\nvocabulary = 4\ntrain_limit = 1\n");
  EXPECT_EQ(small.words, "<pad>\n<unk>\nrain\n!");
  EXPECT_EQ(row(*small.test, 0), (Indices{1, 1}));
}

TEST_F(Csv, WordsOfDrawnTestRowsAreNotInTheVocabulary) {
  std::string rows = "text,class\n";
  for (int i = 0; i < 40; ++i)
    rows += "word" + std::to_string(i) + " common," + std::to_string(i % 2) + "\n";
  write("a.csv", rows);
  const Dataset data =
      load("csv", "file = a.csv\ncsv_text = text\nlength = 3\nvocabulary = 90\ntest_share = 0.3\n");
  ASSERT_EQ(data.train->size(), 28);
  EXPECT_EQ(std::count(data.words.begin(), data.words.end(), '\n'), 1 + 1 + 28);
  const at::Tensor tests = whole(*data.test);
  EXPECT_TRUE(at::equal(tests, at::tensor({1, 2, 0}, at::kLong).expand({12, 3})));
}

TEST_F(Csv, TextsThatHaveNoWordsAreRefused) {
  const std::string text = "csv_text = text\ncsv_label = class\n";
  write("a.csv", std::string("class,text\n0,a\n1,\"  \"\n"));
  EXPECT_MENTIONS(refusal(text),
                  "a.csv line 3 has no words in data.csv_text = text: remove the row");
  write("a.csv", std::string("class,text\n0,caf\xe9\n"));
  EXPECT_MENTIONS(refusal(text), "a.csv line 2 is not text in UTF-8");
  EXPECT_THROW(load("csv", "file = a.csv\ncsv_text = class\ncsv_label = class\n"), InputError);
  EXPECT_THROW(load("csv", "file = a.csv\ncsv_text = title\ncsv_label = class\n"), InputError);
}

TEST_F(Csv, CellsMayBeSeparatedOtherwise) {
  for (const auto& [name, character] : {std::pair{"semicolon", ";"}, {"tab", "\t"}}) {
    std::string rows = "a,b;class\n0.5;0\n1.5;1\n";
    std::replace(rows.begin(), rows.end(), ';', character[0]);
    write("a.csv", rows);
    const std::string settings =
        std::string("file = a.csv\ntest_file = a.csv\ncsv_separator = ") + name + "\n";
    EXPECT_EQ(whole(*load("csv", settings).train)[1][0].item<float>(), 1.5);
    std::replace(rows.begin(), rows.end(), ',', '.');
    write("a.csv", rows);
    EXPECT_MENTIONS(refusal(), std::string("set data.csv_separator = ") + name);
  }
}

TEST_F(Csv, LinesMayEndAsOnAnySystem) {
  for (const char* end : {"\n", "\r\n", "\r"}) {
    const auto lines = [&](const std::string& text) {
      std::string result;
      for (const char c : text) result += c == '\n' ? end : std::string(1, c);
      return result;
    };
    write("a.csv", "\xef\xbb\xbf" + lines("a,class\n1,0\n\n\"2\",1"));
    const Dataset data = load("csv", "file = a.csv\ntest_file = a.csv\ncsv_label = class\n");
    EXPECT_TRUE(at::equal(whole(*data.train), at::tensor({1.0F, 2.0F}).view({2, 1})));
    write("a.csv", lines("a,class\n1,0\n\n\"2\",1\nx,1\n"));
    EXPECT_MENTIONS(refusal(), "a.csv line 5: 'x'");
  }
  write("a.csv", Bytes{0xff, 0xfe, 'a', 0, ',', 0});
  EXPECT_MENTIONS(refusal(), "a.csv is text in UTF-16");
}

TEST_F(Csv, AnIndexThatIsTrainedOnIsTold) {
  const auto said = [&](const std::string& text) {
    write("a.csv", text);
    ::testing::internal::CaptureStderr();
    load("csv", "file = a.csv\ntest_file = a.csv\n");
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_MENTIONS(said(",a,class\n17,5,0\n3,6,1\n"), "which has no name");
  EXPECT_MENTIONS(said("Unnamed: 0,a,class\n17,5,0\n3,6,1\n"), "(Unnamed: 0)");
  EXPECT_MENTIONS(said("id,a,class\n1,5,0\n2,6,1\n3,4,1\n"), "(id)");
  EXPECT_MENTIONS(said("row,a,class\n0,5,0\n1,6,1\n2,4,1\n"), "(row)");
  EXPECT_EQ(said("a,b,class\n1,0,0\n2,1,1\n4,2,1\n"), "");
  EXPECT_EQ(said("a,b,class\n5,0,0\n6,1,1\n7,2,1\n"), "");
}

TEST_F(Csv, TokensAreColumnsInOrder) {
  std::string rows = "first,second,class\n";
  for (int i = 0; i < 40; ++i) rows += std::to_string(i) + ",3," + std::to_string(i % 2) + "\n";
  write("a.csv", rows);
  const std::string settings = "file = a.csv\ncsv_values = tokens\nvocabulary = ";
  const Dataset data = load("csv", settings + "40\n");
  EXPECT_EQ(data.shape.vocabulary, 40);
  EXPECT_EQ(data.shape.sample, (Indices{2}));
  EXPECT_EQ(data.train->size(), 36);
  EXPECT_EQ(data.test->size(), 4);
  EXPECT_EQ(whole(*data.train).scalar_type(), at::kLong);
  EXPECT_MENTIONS(data_error([&] { load("csv", settings + "39\n"); }), "a.csv line 41: '39'");
}

TEST_F(Csv, RowsThatCannotBeUsedAreNamedByFileAndLine) {
  EXPECT_MENTIONS(refusal(), "a.csv is missing, and so is a.csv");
  std::string good = "a,b,class\n";
  for (int i = 0; i < 20; ++i) good += "1,2," + std::to_string(i % 2) + "\n";
  write("a.csv", good);
  EXPECT_EQ(refusal(), "accepted");
  const std::map<std::string, std::string> rows{
      {"1,2\n", "2 cells instead of 3"},
      {"1,2,0,4\n", "4 cells instead of 3"},
      {"1,two,0\n", "'two' in b is not a finite number"},
      {"1,,0\n", "'' in b is not a finite number"},
      {"nan,2,0\n", "'nan' in a is not a finite number"},
      {"1e99,2,0\n", "'1e99' in a is not a finite number"},
      {"1,\"-18,5\",0\n", "'-18,5' in b is not a finite number; write a point before the decimals"},
      {"1,2,-1\n", "'-1' in class is not a class"},
      {"1,2,0.5\n", "'0.5' in class is not a class"},
      {"1,2,dog\n", "'dog' in class is not a class"},
      {"1,2,\"0\n", "never closed"},
      {"1,\"2\"x,0\n", "followed by 'x'"},
  };
  for (const auto& [row, words] : rows) {
    write("a.csv", good + "\n" + row);
    EXPECT_MENTIONS(refusal(), words);
    EXPECT_MENTIONS(refusal(), "a.csv line 23");
  }
  const std::string with_nul = std::string("1,2") + '\0' + "3,0\n";
  for (const std::string& row : {with_nul, "1,\"2" + with_nul.substr(3, 2) + "\",0\n"}) {
    write("a.csv", good + row);
    EXPECT_MENTIONS(refusal(), "a.csv line 22: a NUL byte, which is not text; correct the file");
  }
  write("a.csv", good + "1,2,3\n");
  EXPECT_MENTIONS(refusal(), "class 2 has no sample");
  EXPECT_MENTIONS(refusal("classes = 3\n"), "line 22: '3' in class is not a class from 0 to 2");
  write("a.csv", std::string("a,b,a\n1,2,0\n"));
  EXPECT_MENTIONS(refusal(), "a.csv line 1: two columns are called 'a'");
  write("a.csv", std::string("a,b,class\n"));
  EXPECT_MENTIONS(refusal(), "no samples");
  write("a.csv", std::string());
  EXPECT_MENTIONS(refusal(), "no samples");
  write("a.csv", std::string("class\n0\n1\n"));
  EXPECT_MENTIONS(refusal(), "no columns beside the label's, so no features");
  write("a.csv", good);
  write("b.csv", std::string("a,c,class\n1,2,0\n"));
  EXPECT_MENTIONS(refusal("test_file = b.csv\n"), "b.csv line 1 has other columns");
  EXPECT_MENTIONS(refusal("test_file = c.csv\n"), "set data.test_file");
}

}  // namespace
}  // namespace espalier
