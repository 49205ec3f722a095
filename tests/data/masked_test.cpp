// Hidden tokens of texts (data.mask_rate): how many, which, and their labels.

#include <set>

#include "fixture.h"

namespace espalier {
namespace {

using Tokens = std::vector<std::int64_t>;

constexpr std::int64_t kMask = 256;  // of bytes

class Masked : public DataFolder {
 protected:
  void SetUp() override {
    DataFolder::SetUp();
    std::string text;
    for (int i = 0; i < 2000; ++i) text += static_cast<char>('a' + (7 * i + i / 26) % 26);
    write("a.txt", text);
  }
  Dataset text(const std::string& more = "mask_rate = 0.15\n") const {
    return load("text", "file = a.txt\nlength = 20\n" + more);
  }
};

/// Each sample of the batch has `masked` mask tokens, and with its labels in their places it is the
/// text.
void expect_text(const Batch& batch, const at::Tensor& text, std::int64_t masked) {
  ASSERT_EQ(batch.labels.sizes(), (Tokens{text.size(0), masked}));
  const at::Tensor hidden = batch.inputs.eq(kMask);
  EXPECT_TRUE(hidden.sum(1).eq(masked).all().item<bool>());
  EXPECT_TRUE(batch.inputs.masked_scatter(hidden, batch.labels).equal(text));
}

TEST_F(Masked, ShapeCountsTheHiddenTokensAndTheMaskToken) {
  const Dataset data = text();
  EXPECT_FALSE(data.shape.next_token);
  EXPECT_TRUE(data.shape.predicts_tokens());
  EXPECT_EQ(data.shape.masked, 3);  // 0.15 x 20
  EXPECT_EQ(data.shape.targets(), 3);
  EXPECT_EQ(data.shape.classes, 256);
  EXPECT_EQ(data.shape.vocabulary, 257);
  EXPECT_EQ(text("mask_rate = 0.001\n").shape.masked, 1);
  EXPECT_EQ(text("mask_rate = 1\n").shape.masked, 20);
  EXPECT_EQ(text("mask_rate = 0\n").shape.vocabulary, 256);
}

TEST_F(Masked, LabelsAreTheHiddenTokens) {
  const Dataset plain = text("");
  const Dataset data = text();
  const Tokens indices{5, 0, 17, 17};
  const at::Tensor whole = plain.train->inputs(indices);
  expect_text(data.train->batch(indices), whole, 3);
  Stream draws(1, Purpose{9});
  expect_text(data.train->batch(indices, &draws), whole, 3);
  expect_text(data.test->batch(Tokens{1}), plain.test->inputs(Tokens{1}), 3);
  EXPECT_TRUE(data.train->labels(indices).equal(whole)) << "every token may be a label";
}

TEST_F(Masked, TestsHideFixedTokensAndTrainingDrawsThem) {
  const Dataset data = text();
  const Tokens first = all_of(60);
  const at::Tensor fixed = data.train->inputs(first);
  EXPECT_TRUE(data.train->inputs(first).equal(fixed));
  EXPECT_TRUE(text("mask_rate = 0.15\ntrain_limit = 70\n").train->inputs(first).equal(fixed));
  // The tokens of a sample do not depend on the batch that it is in.
  EXPECT_TRUE(data.train->inputs(Tokens{59})[0].equal(fixed[59]));
  Stream one(1, Purpose{9}), again(1, Purpose{9}), other(2, Purpose{9});
  const at::Tensor drawn = data.train->inputs(first, &one);
  EXPECT_TRUE(data.train->inputs(first, &again).equal(drawn));
  EXPECT_FALSE(data.train->inputs(first, &other).equal(drawn));
  EXPECT_FALSE(fixed.equal(drawn));
  // Every place is hidden in some of 60 samples: it is not with probability 20 x 0.85^60 = 1e-3.
  EXPECT_TRUE(drawn.eq(kMask).any(0).all().item<bool>());
}

TEST_F(Masked, WordsHaveAMaskWord) {
  std::string words;
  for (int i = 0; i < 300; ++i) words += i % 3 == 0 ? "tree " : "wall ";
  write("b.txt", words);
  const Dataset data = load("text",
                            "file = b.txt\nlength = 5\ntokens = words\nvocabulary = 4\n"
                            "mask_rate = 0.2\n");
  EXPECT_EQ(data.shape.vocabulary, 5);
  EXPECT_EQ(data.shape.classes, 4);
  EXPECT_EQ(data.words, "<pad>\n<unk>\nwall\ntree\n<mask>");
  EXPECT_TRUE(data.train->inputs(all_of(9)).eq(4).sum(1).eq(1).all().item<bool>());
}

TEST_F(Masked, OtherDataIsRefused) {
  EXPECT_THROW(load("synthetic", "mask_rate = 0.15\n"), InputError);
  EXPECT_THROW(load("synthetic", "mask_rate = 0.15\nsynthetic_vocabulary = 50\n"), InputError);
  EXPECT_EQ(load("synthetic",
                 "mask_rate = 0.15\nsynthetic_vocabulary = 50\nsynthetic_labels = next_token\n")
                .shape.masked,
            10);  // of 64 tokens
}

}  // namespace
}  // namespace espalier
