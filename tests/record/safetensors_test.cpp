// The format by hand: files written byte by byte, sound and unsound.

#include "espalier/record/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <limits>
#include <optional>

#include "espalier/base/error.h"
#include "folder.h"

namespace espalier {
namespace {

class Safetensors : public ::testing::Test {
 protected:
  /// A file of this header and as many bytes 0, 1, 2, ... after it.
  std::filesystem::path file(const std::string& header, std::size_t values,
                             std::optional<std::int64_t> length = {}) {
    std::string bytes(8, '\0');
    const std::int64_t n = length.value_or(static_cast<std::int64_t>(header.size()));
    std::memcpy(bytes.data(), &n, 8);
    bytes += header;
    for (std::size_t i = 0; i < values; ++i) bytes += static_cast<char>(i);
    return raw(bytes);
  }
  std::filesystem::path raw(const std::string& bytes) {
    const std::filesystem::path path = folder_.path() / "file.safetensors";
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  void expect_refused(const std::filesystem::path& path, const std::string& words) {
    try {
      for (const NamedTensor& tensor : read_safetensors(path)) {
        std::vector<float> values(static_cast<std::size_t>(tensor.count()));
        tensor.read_all(values.data());
      }
      FAIL() << "read a file that should be refused for: " << words;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
    }
  }
  std::vector<float> values_of(const NamedTensor& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.count()));
    tensor.read_all(values.data());
    return values;
  }
  Folder folder_;
};

std::string line(const std::string& name, const std::string& type, const std::string& shape,
                 const std::string& offsets) {
  return formatted(R"("{}":{{"dtype":{},"shape":{},"data_offsets":{}}})", name, type, shape,
                   offsets);
}

std::string bits(std::initializer_list<std::uint64_t> words, std::size_t each) {
  std::string bytes;
  for (const std::uint64_t word : words) {
    bytes.append(reinterpret_cast<const char*>(&word), each);
  }
  return bytes;
}

TEST_F(Safetensors, ReadsEveryFloatTypeInAnyOrderOfTheHeader) {
  std::string header = "{" + line("d", R"("F64")", "[2]", "[12,28]") + "," +
                       R"("__metadata__":{"format":"pt"},)" + line("s", R"("F32")", "[]", "[0,4]") +
                       "," + line("h", R"("F16")", "[1,2]", "[4,8]") + "," +
                       line("b", R"("BF16")", "[2,1]", "[8,12]") + "," +
                       line("none", R"("F32")", "[0,7]", "[28,28]") + "," +
                       line("i", R"("I64")", "[1]", "[28,36]") + "}  ";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size() & 0xff);
  bytes[1] = static_cast<char>(header.size() >> 8);
  bytes += header;
  bytes += bits({0x3f800000}, 4);                              // 1
  bytes += bits({0xc100, 0x0001}, 2);                          // -2.5, the least half: 2^-24
  bytes += bits({0x4049, 0xff80}, 2);                          // 3.140625, -infinity
  bytes += bits({0x3fb999999999999a, 0x7fefffffffffffff}, 8);  // 0.1, the largest double
  bytes += bits({7}, 8);
  const auto tensors = read_safetensors(raw(bytes));
  ASSERT_EQ(tensors.size(), 6u);
  EXPECT_EQ(tensors[0].name, "s");
  EXPECT_TRUE(tensors[0].shape.empty());
  EXPECT_EQ(values_of(tensors[0]), std::vector<float>{1});
  EXPECT_EQ(values_of(tensors[1]), (std::vector<float>{-2.5f, 0x1p-24f}));
  EXPECT_EQ(values_of(tensors[2]),
            (std::vector<float>{3.140625f, -std::numeric_limits<float>::infinity()}));
  EXPECT_EQ(values_of(tensors[3]),
            (std::vector<float>{0.1f, std::numeric_limits<float>::infinity()}));
  EXPECT_EQ(tensors[4].shape, (std::vector<std::int64_t>{0, 7}));
  EXPECT_TRUE(values_of(tensors[4]).empty());
  EXPECT_EQ(tensors[5].name, "i");
  float unused = 0;
  EXPECT_THROW(tensors[5].read_all(&unused), DataError);
}

/// Reads parts of `from`, which must outlive it.
auto reads(const std::vector<float>& from) {
  return [&from](std::int64_t first, std::int64_t count, float* to) {
    std::copy_n(from.begin() + first, count, to);
  };
}

TEST_F(Safetensors, WhatIsWrittenIsReadBack) {
  const std::vector<float> first{1, -0.0f, 3e-45f}, second{4};
  const std::vector<NamedTensor> tensors{{"b.weight", {3, 1}, reads(first)},
                                         {"a \"quoted\"", {}, reads(second)}};
  const auto path = folder_.path() / "out.safetensors";
  write_safetensors(path, tensors);
  const auto back = read_safetensors(path);
  ASSERT_EQ(back.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(back[i].name, tensors[i].name);
    EXPECT_EQ(back[i].shape, tensors[i].shape);
    const auto a = values_of(back[i]), b = values_of(tensors[i]);
    ASSERT_EQ(a.size(), b.size());
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0);
  }
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".tmp"));
}

TEST_F(Safetensors, PartsOfATensorAreReadAlone) {
  // More values than are read or written in one piece.
  std::vector<float> values((1 << 21) + 5);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const auto path = folder_.path() / "out.safetensors";
  const auto count = std::ssize(values);
  write_safetensors(path, std::vector<NamedTensor>{{"x", {count}, reads(values)}});
  const auto back = read_safetensors(path);
  EXPECT_EQ(values_of(back[0]), values);
  std::vector<float> part(3);
  for (const std::int64_t first : {std::int64_t{0}, std::int64_t{(1 << 20) - 1}, count - 3}) {
    back[0].read(first, 3, part.data());
    for (int i = 0; i < 3; ++i) EXPECT_EQ(part[i], static_cast<float>(first + i));
  }
}

// By hand: bfloat16 has 8 bits of significand and float16 11, so these lie halfway.
TEST_F(Safetensors, ValuesAreRoundedToTheNearestOfTheTypeHalvesToEven) {
  const std::vector<float> values{1 + 0x1p-8f,  1 + 0x3p-8f, -1 - 0x1.1p-8f, 1 + 0x1p-11f,
                                  1 + 0x3p-11f, 65519,       0x1p-25f};
  const auto path = folder_.path() / "out.safetensors";
  const std::vector<NamedTensor> tensors{{"x", {7}, reads(values)}};
  write_safetensors(path, tensors, FloatType::bfloat16);
  EXPECT_EQ(values_of(read_safetensors(path)[0]),
            (std::vector<float>{1, 1 + 0x1p-6f, -1 - 0x1p-7f, 1, 1, 65536, 0x1p-25f}));
  write_safetensors(path, tensors, FloatType::float16);
  EXPECT_EQ(values_of(read_safetensors(path)[0]),
            (std::vector<float>{1 + 0x1p-8f, 1 + 0x3p-8f, -1 - 0x1p-8f, 1, 1 + 0x1p-9f, 65504, 0}));
  EXPECT_EQ(std::filesystem::file_size(path) % 8, 7 * 2 % 8);
}

TEST_F(Safetensors, AValueBeyondTheTypeIsAnOutputErrorThatLeavesTheOlderFile) {
  const std::vector<float> values{1, 65520}, older{3};
  const auto path = folder_.path() / "out.safetensors";
  write_safetensors(path, std::vector<NamedTensor>{{"x", {1}, reads(older)}});
  try {
    write_safetensors(path, std::vector<NamedTensor>{{"x", {2}, reads(values)}},
                      FloatType::float16);
    FAIL();
  } catch (const OutputError& error) {
    EXPECT_STREQ(error.what(),
                 "x has the value 65520, which is beyond float16: export it as bfloat16 or "
                 "float32");
  }
  EXPECT_EQ(values_of(read_safetensors(path)[0]), older);
}

TEST_F(Safetensors, AHeaderMayHaveManyTensors) {
  // As many as a model of 2,000 blocks.
  const std::vector<float> one{1};
  std::vector<NamedTensor> tensors;
  for (int i = 0; i < 20'000; ++i) tensors.push_back({formatted("t.{}", i), {1}, reads(one)});
  const auto path = folder_.path() / "out.safetensors";
  write_safetensors(path, tensors);
  const auto back = read_safetensors(path);
  ASSERT_EQ(back.size(), tensors.size());
  EXPECT_EQ(back.back().name, tensors.back().name);
  EXPECT_EQ(values_of(back.back()), one);
}

/// Two files with a tensor each, and an index with the text `map` as its weight_map.
class Shards : public Safetensors {
 protected:
  void write(const std::string& file, const std::string& tensor, const std::vector<float>& values) {
    write_safetensors(folder_.path() / file,
                      std::vector<NamedTensor>{{tensor, {std::ssize(values)}, reads(values)}});
  }
  std::filesystem::path index(const std::string& map) {
    const auto path = folder_.path() / "model.safetensors.index.json";
    std::ofstream(path) << R"({"metadata": {"total_size": 12}, "weight_map": )" << map << "}";
    return path;
  }
  std::string refused(const std::filesystem::path& path) {
    try {
      read_weights(path);
    } catch (const DataError& error) {
      return error.what();
    }
    return "not refused";
  }
};

TEST_F(Shards, AreFoundByFolderOrIndex) {
  write("model-00002-of-00002.safetensors", "a", {1});
  write("model-00001-of-00002.safetensors", "b", {2, 3});
  for (const bool has_index : {false, true}) {
    const auto path = has_index ? index(R"({"a": "model-00002-of-00002.safetensors",
                                            "b": "model-00001-of-00002.safetensors"})")
                                : folder_.path();
    const auto tensors = read_weights(path);
    ASSERT_EQ(tensors.size(), 2u);
    EXPECT_EQ(tensors[0].name, "b");
    EXPECT_EQ(values_of(tensors[0]), (std::vector<float>{2, 3}));
    EXPECT_EQ(values_of(tensors[1]), std::vector<float>{1});
    EXPECT_EQ(read_weights(folder_.path()).size(), 2u);
  }
  // A file without an index beside it is the whole model.
  write("model.safetensors", "c", {4});
  std::filesystem::remove(folder_.path() / "model.safetensors.index.json");
  EXPECT_EQ(read_weights(folder_.path())[0].name, "c");
}

TEST_F(Shards, ThatDoNotFitTogetherAreRefused) {
  EXPECT_NE(refused(folder_.path()).find("has no safetensors files"), std::string::npos);
  write("1.safetensors", "a", {1});
  write("2.safetensors", "a", {1});
  EXPECT_NE(refused(folder_.path()).find("both have a tensor 'a'"), std::string::npos);
  EXPECT_NE(refused(index(R"({"a": "1.safetensors", "b": "1.safetensors"})"))
                .find("it places tensor 'b' in 1.safetensors, which has no such tensor"),
            std::string::npos);
  EXPECT_NE(refused(index(R"({"a": "3.safetensors"})")).find("3.safetensors: No such file"),
            std::string::npos);
  EXPECT_NE(refused(index(R"({"a": "../1.safetensors"})")).find("no name of a file beside it"),
            std::string::npos);
  EXPECT_NE(refused(index("[]")).find("it has no weight_map"), std::string::npos);
  EXPECT_NE(refused(index("{")).find("it has no weight_map"), std::string::npos);
}

TEST_F(Safetensors, AFolderThatCannotBeWrittenIsAnOutputError) {
  EXPECT_THROW(write_safetensors(folder_.path() / "absent" / "x.safetensors", {}), OutputError);
}

TEST_F(Safetensors, RefusesFilesThatAreNotThereOrNotFiles) {
  expect_refused(folder_.path() / "absent.safetensors", "No such file");
  expect_refused(folder_.path(), "s a directory");
}

TEST_F(Safetensors, RefusesEveryUnsoundHeader) {
  const std::string f32 = R"("F32")";
  const std::string good = line("x", f32, "[2]", "[0,8]");
  expect_refused(raw(""), "it has 0 bytes");
  expect_refused(raw("1234567"), "it has 7 bytes");
  expect_refused(file("{" + good + "}", 8, 1 << 20), "its header would have");
  expect_refused(file("{" + good + "}", 8, -2), "its header would have");
  expect_refused(file("{" + good, 8), "not valid JSON");
  expect_refused(file("", 8), "not valid JSON");
  expect_refused(file("{\"\xff\":1}", 0), "not valid JSON");
  expect_refused(file("[1,2]", 0), "not a JSON object");
  expect_refused(file("{" + good + "," + good + "}", 8), "'x' is given twice");
  expect_refused(file(R"({"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8),
                 "'dtype' is given twice");
  expect_refused(file(R"({"x":3})", 0), "tensor 'x' has no dtype");
  expect_refused(file(R"({"x":{"dtype":"F32","shape":[2]}})", 8), "tensor 'x' has no data_offsets");
  expect_refused(file("{" + line("x", R"("F31")", "[2]", "[0,8]") + "}", 8),
                 "unknown element type \"F31\"");
  expect_refused(file("{" + line("x", "32", "[2]", "[0,8]") + "}", 8), "unknown element type 32");
  expect_refused(file("{" + line("x", f32, "2", "[0,8]") + "}", 8), "a shape that is no list");
  for (const char* size : {"[-2]", "[2.0]", "[\"2\"]", "[18446744073709551615]"}) {
    expect_refused(file("{" + line("x", f32, size, "[0,8]") + "}", 8), "no whole number");
  }
  for (const char* offsets : {"8", "[0]", "[0,4,8]", "[0,\"8\"]", "[-8,0]"}) {
    expect_refused(file("{" + line("x", f32, "[2]", offsets) + "}", 8), "not two whole numbers");
  }
  expect_refused(file("{" + line("x", f32, "[2]", "[8,0]") + "}", 8), "bytes 8 to 0 of 8");
  expect_refused(file("{" + good + "}", 7), "bytes 0 to 8 of 7");  // cut short
  expect_refused(file("{" + line("x", f32, "[3]", "[0,8]") + "}", 8), "what F32 of [3] needs");
  expect_refused(file("{" + line("x", f32, "[4294967296,4294967296]", "[0,0]") + "}", 0),
                 "what F32 of [4294967296, 4294967296] needs");  // 2^66 bytes
  expect_refused(file("{" + good + "," + line("y", f32, "[2]", "[4,12]") + "}", 12),
                 "tensor 'y' begins at byte 4");
  expect_refused(file("{" + good + "," + line("y", f32, "[1]", "[12,16]") + "}", 16),
                 "tensor 'y' begins at byte 12");
  expect_refused(file("{" + good + "}", 9), "9 follow the header");
  expect_refused(file("{" + line("x", R"("I64")", "[1]", "[0,8]") + "}", 8), "tensor 'x' of");
}

}  // namespace
}  // namespace espalier
