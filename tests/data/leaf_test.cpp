// The LEAF benchmark's JSON: texts and images, users as clients, the division into training and
// test samples, and refusals.

#include <algorithm>
#include <map>
#include <set>

#include "fixture.h"

namespace espalier {
namespace {

using Indices = std::vector<std::int64_t>;

class Leaf : public DataFolder {
 protected:
  /// With the model's name, because the form of samples depends on it.
  Dataset load_for(const std::string& model, const std::string& settings = "") const {
    return load_dataset(data_config("[model]\nname = " + model + "\n[data]\nname = leaf\ndir = " +
                                    folder_.string() + "\n" + settings));
  }
  std::string refusal(const std::string& json, const std::string& model = "mlp") const {
    write("a.json", json);
    return data_error([&] { load_for(model, "file = a.json\n"); });
  }
};

Indices tokens(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous().flatten();
  return {flat.const_data_ptr<std::int64_t>(), flat.const_data_ptr<std::int64_t>() + flat.numel()};
}

Indices bytes(const std::string& text) { return {text.begin(), text.end()}; }

/// Windows of `length` characters of a speech, each one character after the one before.
std::string speaker(const std::string& speech, std::size_t length) {
  std::string x, y;
  for (std::size_t i = 0; i + length < speech.size(); ++i) {
    x += (i ? ", \"" : "\"") + speech.substr(i, length) + '"';
    y += (i ? ", \"" : "\"") + speech.substr(i + length, 1) + '"';
  }
  return R"({"y": [)" + y + R"(], "x": [)" + x + "]}";
}

std::string speech(std::size_t length, char first) {
  std::string text;
  for (std::size_t i = 0; i < length; ++i) text += static_cast<char>(first + i % 26);
  return text;
}

TEST_F(Leaf, TextsPredictTheNextCharacterAndShareNoneWithTheTests) {
  // 20 and 40 windows of 5 characters. The members stand in another order than the users.
  const std::string a = speech(25, 'a'), b = speech(45, 'A');
  write("a.json", R"({"users": ["b", "a"], "num_samples": [44, 24], "user_data": {"a": )" +
                      speaker(a, 5) + R"(, "b": )" + speaker(b, 5) + "}}");
  const Dataset data = load_for("gpt", "file = a.json\ntest_share = 0.25\n");
  EXPECT_EQ(data.shape.sample, (Indices{5}));
  EXPECT_EQ(data.shape.vocabulary, 256);
  EXPECT_EQ(data.shape.classes, 256);
  EXPECT_TRUE(data.shape.next_token);
  // The last 5 and 10 windows, without the first 4 of them, which reach into the training texts.
  ASSERT_EQ(data.train->size(), 15 + 30);
  ASSERT_EQ(data.test->size(), 1 + 6);
  EXPECT_EQ(std::count(data.client_of.begin(), data.client_of.end(), 0), 30);
  EXPECT_EQ(data.client_of.front(), 1);  // user a
  EXPECT_EQ(tokens(data.train->inputs(Indices{14})), bytes(a.substr(14, 5)));
  EXPECT_EQ(tokens(data.train->labels(Indices{14})), bytes(a.substr(15, 5)));
  EXPECT_EQ(tokens(data.test->inputs(Indices{0})), bytes(a.substr(19, 5)));
  EXPECT_EQ(tokens(data.test->inputs(Indices{1})), bytes(b.substr(34, 5)));
  EXPECT_EQ(tokens(data.test->labels(Indices{6})), bytes(b.substr(40, 5)));
  // A classifier of texts gets the next character alone.
  const Dataset classes = load_for("encoder", "file = a.json\ntest_share = 0.25\n");
  EXPECT_FALSE(classes.shape.next_token);
  EXPECT_EQ(classes.train->label(14), a[19]);
  // A model that takes either gets what data.leaf_labels says.
  for (const std::string labels : {"auto", "every", "last"}) {
    const Dataset either =
        load_for("lstm", "file = a.json\ntest_share = 0.25\nleaf_labels = " + labels + "\n");
    EXPECT_EQ(either.shape.next_token, labels != "last");
    EXPECT_EQ(tokens(either.train->labels(Indices{14})),
              labels == "last" ? Indices{a[19]} : bytes(a.substr(15, 5)));
    EXPECT_EQ(tokens(either.train->inputs(Indices{14})), bytes(a.substr(14, 5)));
    EXPECT_EQ(either.test->size(), 7);
  }
}

TEST_F(Leaf, ImagesKeepTheirUsersAndTheDivisionOfFolders) {
  std::filesystem::create_directories(folder_ / "leaf" / "test");
  write("leaf/train/2.json",
        R"({"users": ["u2"], "user_data": {"u2": {"x": [[9,8,7,6]], "y": [1]}}})");
  write("leaf/train/1.json",
        R"({"users": ["u0", "u1"], "num_samples": [1, 2], "hierarchies": [["x"], 3],
            "user_data": {"u0": {"x": [[0.5, 1, -2, 3]], "y": [0]},
                          "u1": {"x": [[1, 1, 1, 1], [2, 2, 2, 2]], "y": [2, 1]}}})");
  write("leaf/test/1.json",
        R"({"users": ["u1"], "user_data": {"u1": {"x": [[4,4,4,5]], "y": [2]}}})");
  const Dataset data = load_for("cnn");
  EXPECT_EQ(data.shape.sample, (Indices{1, 2, 2}));
  EXPECT_EQ(data.shape.classes, 3);
  EXPECT_EQ(data.client_of, (std::vector<std::int32_t>{0, 1, 1, 2}));
  const at::Tensor x = data.train->inputs(Indices{0, 3});
  EXPECT_TRUE(x.flatten().equal(at::tensor({0.5F, 1.F, -2.F, 3.F, 9.F, 8.F, 7.F, 6.F})));
  EXPECT_EQ(tokens(data.train->labels(Indices{0, 1, 2, 3})), (Indices{0, 2, 1, 1}));
  EXPECT_TRUE(data.test->inputs(Indices{0}).flatten().equal(at::tensor({4.F, 4.F, 4.F, 5.F})));
  EXPECT_EQ(load_for("mlp").shape.sample, (Indices{4}));
  EXPECT_EQ(load_for("cnn1d").shape.sample, (Indices{1, 4}));
  EXPECT_EQ(load_for("mlp", "shape = 2, 1, 2\n").shape.sample, (Indices{2, 1, 2}));
  EXPECT_THROW(load_for("mlp", "shape = 2, 1, 3\n"), InputError);
}

TEST_F(Leaf, OneFileIsDividedWithinEachUser) {
  std::string users, user_data;
  for (int u = 0; u < 3; ++u) {
    std::string x, y;
    for (int i = 0; i < 10; ++i) {
      x += formatted("{}[{}]", i ? "," : "", 10 * u + i);
      y += formatted("{}{}", i ? "," : "", i % 2);
    }
    users += formatted("{}\"u{}\"", u ? "," : "", u);
    user_data += formatted("{}\"u{}\":{{\"x\":[{}],\"y\":[{}]}}", u ? "," : "", u, x, y);
  }
  write("a.json", formatted(R"({{"user_data":{{{}}},"users":[{}]}})", user_data, users));
  const Dataset data = load_for("mlp", "file = a.json\ntest_share = 0.3\n");
  ASSERT_EQ(data.train->size(), 21);
  ASSERT_EQ(data.test->size(), 9);
  const at::Tensor train = data.train->inputs(all_of(21)).flatten();
  const at::Tensor test = data.test->inputs(all_of(9)).flatten();
  std::map<int, int> of_user;
  std::set<float> seen;
  for (int i = 0; i < 9; ++i) ++of_user[static_cast<int>(test[i].item<float>()) / 10];
  EXPECT_EQ(of_user, (std::map<int, int>{{0, 3}, {1, 3}, {2, 3}}));
  for (int i = 0; i < 21; ++i) {
    EXPECT_EQ(data.client_of[static_cast<std::size_t>(i)],
              static_cast<int>(train[i].item<float>()) / 10);
    seen.insert(train[i].item<float>());
  }
  for (int i = 0; i < 9; ++i) seen.insert(test[i].item<float>());
  EXPECT_EQ(seen.size(), 30U);
}

TEST_F(Leaf, RefusesWhatItDoesNotRead) {
  const auto one = [](const std::string& x, const std::string& y) {
    return R"({"users": ["u"], "user_data": {"u": {"x": )" + x + R"(, "y": )" + y + "}}}";
  };
  EXPECT_MENTIONS(refusal(one("[[1, 2], [3]]", "[0, 1]")),
                  "a.json has 1 numbers in x of sample 1 (from 0) of the user u, and the samples "
                  "before have 2");
  EXPECT_MENTIONS(refusal(one(R"(["abc", "abé"])", R"(["d", "e"])"), "gpt"), "has 4 bytes in x");
  EXPECT_MENTIONS(refusal(one(R"(["abc"])", R"(["de"])"), "gpt"), "has 'de' in y of sample 0");
  EXPECT_MENTIONS(refusal(one(R"([["id", "text"]])", "[0]")), "a list of texts");
  EXPECT_MENTIONS(refusal(one("[[[1], [2]]]", "[0]")), "lists within lists");
  EXPECT_MENTIONS(refusal(one("[1, 2]", "[0, 1]")),
                  "where a text or a list of numbers is expected");
  EXPECT_MENTIONS(refusal(one("[[1], [2]]", "[0, 0.5]")), "has 0.5 in y of sample 1");
  EXPECT_MENTIONS(refusal(one("[[1], [2]]", "[0]")), "has 2 x and 1 y of the user u");
  EXPECT_MENTIONS(refusal(one("[[1], null]", "[0, 1]")), "a null in x of sample 1");
  EXPECT_MENTIONS(refusal(one("[[1], [2]]", "[0, 1").substr(0, 60)), "is not valid JSON at byte");
  EXPECT_MENTIONS(refusal(R"({"user_data": {}})"), "has no `users`");
  EXPECT_MENTIONS(refusal(R"({"users": ["u"], "user_data": {}})"), "no user_data of the user u");
  EXPECT_MENTIONS(refusal(R"({"users": ["u"], "user_data": {"u": {"x": [[1]], "y": [0]},
                              "v": {"x": [[1]], "y": [0]}}})"),
                  "has user_data of 2 users, and `users` names 1");
  EXPECT_MENTIONS(refusal(R"({"users": [], "user_data": {"u": {"x": [[1]], "y": [0]}}})"),
                  "has no `users`");
  EXPECT_MENTIONS(data_error([&] { load_for("mlp", "file = absent.json\n"); }), "is missing");
  std::filesystem::create_directories(folder_ / "empty");
  EXPECT_MENTIONS(data_error([&] { load_for("mlp", "file = empty\n"); }), "has no JSON files");
}

TEST_F(Leaf, ReadsTheBenchmarksShakespeare) {
  if (real_data() == nullptr ||
      !std::filesystem::exists(std::string(real_data()) + "/leaf-shakespeare")) {
    GTEST_SKIP() << "ESPALIER_DATA names no folder with leaf-shakespeare";
  }
  const Dataset data = load_dataset(
      data_config("[model]\nname = gpt\n[data]\nname = leaf\nfile = leaf-shakespeare\ndir = " +
                  std::string(real_data()) + "\n"));
  EXPECT_EQ(data.shape.sample, (Indices{80}));
  // num_samples of the file, in which LEAF counts 79 samples of each user that it leaves out. A
  // tenth of each user, without 79 overlapping ones, is for tests.
  const Indices samples{287, 837,  1291, 287,  227, 806,  722, 214,  588, 423, 639,  1907,
                        323, 1274, 1356, 1916, 281, 1842, 343, 2921, 275, 730, 3090, 716};
  std::int64_t tests = 0;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const std::int64_t all = samples[i] - 79;
    const std::int64_t tenth = all / 10;
    tests += std::max<std::int64_t>(0, tenth - 79);
    EXPECT_EQ(std::count(data.client_of.begin(), data.client_of.end(), static_cast<int>(i)),
              all - tenth);
  }
  EXPECT_EQ(data.test->size(), tests);
  const Indices first = tokens(data.train->inputs(Indices{0}));
  EXPECT_EQ(std::string(first.begin(), first.begin() + 25), "doubt: What pledge have w");
  EXPECT_EQ(tokens(data.train->labels(Indices{0})).back(), 'l');
}

}  // namespace
}  // namespace espalier
