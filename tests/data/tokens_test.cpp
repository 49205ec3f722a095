// Token folders: documents packed into windows, per client and per split, test windows with a
// stride, and refusals.

#include <numeric>

#include "espalier/data/partition.h"
#include "fixture.h"

namespace espalier {
namespace {

using Tokens = std::vector<std::int64_t>;

Tokens values(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous().flatten();
  const std::int64_t* first = flat.const_data_ptr<std::int64_t>();
  return {first, first + flat.numel()};
}

Tokens from(std::int64_t first, std::int64_t count) {
  Tokens tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

template <class T>
Bytes column(const std::string& descr, const std::vector<T>& numbers) {
  return npy<T>(descr, formatted("({},)", numbers.size()), numbers);
}

class TokenFolder : public DataFolder {
 protected:
  /// Tokens 1000, 1001, ... of type uint16, and a vocabulary of 2000.
  void write_tokens(std::int64_t count) const {
    std::vector<std::uint16_t> tokens(static_cast<std::size_t>(count));
    std::iota(tokens.begin(), tokens.end(), 1000);
    write("tokens/tokens.npy", column("<u2", tokens));
    write("tokens/meta.json", R"({"vocabulary": 2000, "eos": null})");
  }
  void write_documents(const std::vector<std::int64_t>& begin) const {
    write("tokens/documents.npy", column("<i8", begin));
  }
  void write_split(const std::vector<std::uint8_t>& split) const {
    write("tokens/split.npy", column("|u1", split));
  }
  void write_clients(const std::vector<std::int32_t>& clients) const {
    write("tokens/client.npy", column("<i4", clients));
  }
  Dataset tokens(const std::string& settings = "length = 4\n") const {
    return load("tokens", settings);
  }
  std::string refusal(const std::string& settings = "length = 4\n") const {
    return data_error([&] {
      const Dataset data = tokens(settings);
      data.train->batch(all_of(data.train->size()));
    });
  }
};

TEST_F(TokenFolder, GivenClientsNeedTheirFile) {
  write_tokens(60);
  EXPECT_MENTIONS(refusal("length = 3\npartition = given\n"),
                  "client.npy is missing, and data.partition = given needs it");
  write_clients({0});
  EXPECT_EQ(refusal("length = 3\npartition = given\n"), "accepted");
}

TEST_F(TokenFolder, WithoutMoreFilesIsOneTextWhoseLastTenthIsForTests) {
  write_tokens(100);
  const Dataset data = tokens();
  EXPECT_TRUE(data.shape.next_token);
  EXPECT_EQ(data.shape.vocabulary, 2000);
  EXPECT_EQ(data.shape.classes, 2000);
  EXPECT_EQ(data.files.size(), 2u);
  EXPECT_TRUE(data.client_of.empty());
  ASSERT_EQ(data.train->size(), 22);  // (90 - 1) / 4
  ASSERT_EQ(data.test->size(), 2);    // (10 - 1) / 4
  const Batch last = data.train->batch(Tokens{21});
  EXPECT_EQ(values(last.inputs), from(1084, 4));
  EXPECT_EQ(values(last.labels), from(1085, 4));
  EXPECT_EQ(values(data.test->inputs(Tokens{1})), from(1094, 4));
  EXPECT_EQ(tokens("length = 4\ntrain_limit = 5\ntest_limit = 1\n").train->size(), 5);
}

TEST_F(TokenFolder, DocumentsOfASplitArePackedOneAfterTheOther) {
  write_tokens(30);
  // Documents of 6, 7, 0, 9 and 8 tokens; the second and the last are for tests.
  write_documents({0, 6, 13, 13, 22, 30});
  write_split({0, 1, 0, 0, 1});
  const Dataset data = tokens();
  ASSERT_EQ(data.train->size(), 3);  // 15 tokens: (15 - 1) / 4
  const at::Tensor x = data.train->inputs(Tokens{0, 1, 2});
  EXPECT_EQ(values(x),
            (Tokens{1000, 1001, 1002, 1003, 1004, 1005, 1013, 1014, 1015, 1016, 1017, 1018}));
  EXPECT_EQ(values(data.train->labels(Tokens{1})), (Tokens{1005, 1013, 1014, 1015}));
  ASSERT_EQ(data.test->size(), 3);
  EXPECT_EQ(values(data.test->inputs(Tokens{1})), (Tokens{1010, 1011, 1012, 1022}));
}

TEST_F(TokenFolder, NoWindowHasTokensOfTwoClients) {
  write_tokens(40);
  // Client 1: tokens 0-9 and 20-24. Client 0: 10-19. The rest is for tests.
  write_documents({0, 10, 20, 25, 40});
  write_split({0, 0, 0, 1});
  write_clients({1, 0, 1, -1});
  const Dataset data = tokens("length = 4\npartition = given\n");
  EXPECT_EQ(data.client_of, (std::vector<std::int32_t>{0, 0, 1, 1, 1}));
  const at::Tensor x = data.train->inputs(all_of(5));
  EXPECT_EQ(values(x[1]), from(1014, 4));
  EXPECT_EQ(values(x[2]), from(1000, 4));
  EXPECT_EQ(values(x[4]), (Tokens{1008, 1009, 1020, 1021}));
  EXPECT_EQ(values(data.train->labels(Tokens{1})), from(1015, 4));
  const Dataset two = tokens("length = 4\npartition = given\ntrain_limit = 3\n");
  EXPECT_EQ(two.client_of, (std::vector<std::int32_t>{0, 0, 1}));
  EXPECT_EQ(two.train->size(), 3);
}

TEST_F(TokenFolder, OverlappingTestWindowsPredictEachTokenOnce) {
  write_tokens(100);
  write_documents({0, 60, 100});
  write_split({0, 1});
  for (const std::int64_t stride : {1, 2, 3, 4}) {
    const Dataset data = tokens(formatted("length = 4\nstride = {}\n", stride));
    EXPECT_EQ(data.train->size(), 14) << "training windows do not overlap";
    ASSERT_EQ(data.test->size(), (40 - 4 - 1) / stride + 1);
    Tokens predicted;
    for (std::int64_t i = 0; i < data.test->size(); ++i) {
      const Batch batch = data.test->batch(Tokens{i});
      EXPECT_EQ(values(batch.inputs), from(1060 + i * stride, 4));
      const Tokens labels = values(batch.labels);
      for (std::int64_t place = 0; place < 4; ++place) {
        const std::int64_t label = labels[static_cast<std::size_t>(place)];
        if (label == kNoLabel) {
          EXPECT_GT(i, 0);
          EXPECT_LT(place, 4 - stride);
          continue;
        }
        EXPECT_EQ(label, 1061 + i * stride + place);
        predicted.push_back(label);
      }
    }
    EXPECT_EQ(predicted, from(1061, std::ssize(predicted)));
    EXPECT_GT(std::ssize(predicted), 40 - 1 - stride);
  }
  // One more than the length: windows have no token in common.
  const Dataset apart = tokens("length = 4\nstride = 5\n");
  ASSERT_EQ(apart.test->size(), 8);
  EXPECT_EQ(values(apart.test->inputs(Tokens{7})), from(1095, 4));
  EXPECT_EQ(values(apart.test->labels(Tokens{7})), from(1096, 4));
  EXPECT_THROW(tokens("length = 4\nstride = 6\n"), InputError);
}

TEST_F(TokenFolder, TextsHaveTheSameStride) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>(i + 100);
  write("a.txt", text);
  const Dataset data = load("text", "file = a.txt\nlength = 4\nstride = 2\n");
  ASSERT_EQ(data.test->size(), 3);
  EXPECT_EQ(values(data.test->inputs(Tokens{1})), from(192, 4));
  EXPECT_EQ(values(data.test->labels(Tokens{1})), (Tokens{kNoLabel, kNoLabel, 195, 196}));
  EXPECT_EQ(data.train->size(), 22);
}

TEST_F(TokenFolder, TokensOfThirtyTwoBits) {
  write("tokens/tokens.npy", column<std::int32_t>("<i4", std::vector<std::int32_t>(100, 100'000)));
  EXPECT_MENTIONS(refusal(), "meta.json is missing: it states the vocabulary");
  write("tokens/meta.json", R"({"vocabulary": 100001})");
  EXPECT_EQ(values(tokens().test->inputs(Tokens{0})), Tokens(4, 100'000));
  EXPECT_EQ(tokens().shape.vocabulary, 100001);
}

TEST_F(TokenFolder, UnfitFilesAreRefusedInOneSentence) {
  EXPECT_THROW(tokens(), MissingDataError);
  write_tokens(100);
  write("tokens/meta.json", R"({"vocabulary": 1050})");
  EXPECT_MENTIONS(refusal(),
                  "tokens.npy has 1050 at place 50 (from 0), which is no token of a "
                  "vocabulary of 1050");
  for (const char* wrong : {"-1", "1", "0", "2.5"}) {
    write("tokens/meta.json", std::string(R"({"vocabulary": )") + wrong + "}");
    EXPECT_MENTIONS(refusal(), "meta.json has no \"vocabulary\", a whole number from 2 to ");
  }
  write_tokens(100);
  write_documents({0, 50, 40, 100});
  EXPECT_MENTIONS(refusal(), "documents.npy has 40 after 50 at value 2 (from 0)");
  for (const std::vector<std::int64_t>& wrong : {Tokens{0, 50, 99}, Tokens{1, 100}, Tokens{0}}) {
    write_documents(wrong);
    EXPECT_MENTIONS(refusal(), "end with the number of tokens, 100");
  }
  write_documents({0, 50, 100});
  write_split({0});
  EXPECT_MENTIONS(refusal(), "split.npy has 1 values for 2 documents");
  write_split({0, 2});
  EXPECT_MENTIONS(refusal(), "split.npy has 2 for document 1 (from 0), and 0 is for training");
  write_split({0, 0});
  EXPECT_MENTIONS(refusal(), "has 0 tokens for tests");
  write_split({1, 1});
  EXPECT_MENTIONS(refusal(), "has 0 training tokens");
  write_split({0, 1});
  write_clients({-2, 0});
  EXPECT_MENTIONS(refusal(), "client.npy has -2 for document 0 (from 0), and clients count from 0");
  write_clients({-1, 0});
  EXPECT_MENTIONS(refusal("length = 4\npartition = given\n"), "training documents of no client");
  EXPECT_EQ(refusal(), "accepted");
  write_documents({0, 4, 50, 100});
  write_split({0, 0, 1});
  write_clients({0, 1, -1});
  EXPECT_MENTIONS(refusal("length = 4\npartition = given\n"),
                  "has 4 training tokens of client 0, too few for one window");
  write("tokens/split.npy", column<std::int64_t>("<i8", {0, 0, 1}));
  EXPECT_MENTIONS(refusal(), "split.npy holds int64 instead of uint8");
  write("tokens/tokens.npy", column<double>("<f8", std::vector<double>(10, 1.0)));
  EXPECT_MENTIONS(refusal(), "tokens.npy holds float64 instead of uint16 or int32");
  write("tokens/tokens.npy", npy<std::uint16_t>("<u2", "(1, 4)", {1, 2, 3, 4}));
  EXPECT_MENTIONS(refusal(), "has 2 dimensions instead of one");
}

}  // namespace
}  // namespace espalier
