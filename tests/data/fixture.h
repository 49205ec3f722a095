#pragma once
// Common parts of the data tests: a folder of their own, small files in MNIST's and CIFAR's
// formats, and a config.

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/data/dataset.h"

namespace espalier {

using Bytes = std::vector<std::uint8_t>;

/// The message of the DataError that `work` throws.
inline std::string data_error(const std::function<void()>& work) {
  try {
    work();
  } catch (const DataError& error) {
    return error.what();
  }
  return "accepted";
}

#define EXPECT_MENTIONS(message, word) \
  EXPECT_NE((message).find(word), std::string::npos) << "message: " << (message)

inline const char* real_data() {
  const char* folder = std::getenv("ESPALIER_DATA");
  return folder && *folder ? folder : nullptr;
}

inline Config data_config(const std::string& ini) {
  OptionTable table;
  declare_data_options(table);
  declare_model_options(table);  // the kind of samples may depend on the model
  // Declared by parts above this one.
  table.add(
      {.key = "clients.count", .type = OptionType::integer, .default_value = "10", .help = "h"});
  table.add({.key = "run.seed", .type = OptionType::integer, .default_value = "1", .help = "h"});
  Config config(table);
  config.read_text(ini, "test");
  return config;
}

inline std::vector<std::int64_t> all_of(std::int64_t count) {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

/// A split with only labels, for partitions.
class LabelSplit final : public Split {
 public:
  explicit LabelSplit(std::vector<std::int64_t> labels) : labels_(std::move(labels)) {}
  std::int64_t size() const override { return static_cast<std::int64_t>(labels_.size()); }
  std::int64_t label(std::int64_t index) const override { return labels_.at(index); }
  at::Tensor inputs(std::span<const std::int64_t>, Stream*) const override { return {}; }

 private:
  std::vector<std::int64_t> labels_;
};

class DataFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(::testing::TempDir()) /
              (std::string("espalier_") + test->name() + "_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, const Bytes& bytes) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream file(folder_ / name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(file.good());
  }
  void write_gz(const std::string& name, const Bytes& bytes) const {
    gzFile file = gzopen((folder_ / name).c_str(), "wb");
    ASSERT_NE(file, nullptr);
    ASSERT_EQ(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())),
              static_cast<int>(bytes.size()));
    ASSERT_EQ(gzclose(file), Z_OK);
  }
  void write(const std::string& name, const std::string& text) const {
    write(name, Bytes(text.begin(), text.end()));
  }
  /// The data set `name` from this folder, with more settings of [data].
  Dataset load(const std::string& name, const std::string& settings = "") const {
    return load_dataset(
        data_config("[data]\nname = " + name + "\ndir = " + folder_.string() + "\n" + settings));
  }
  Bytes read(const std::string& name) const {
    std::ifstream file(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::filesystem::path folder_;
};

/// An npy file of the values.
template <class T>
Bytes npy(const std::string& descr, const std::string& shape, const std::vector<T>& values,
          const std::string& order = "False") {
  std::string header =
      "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
  header.resize(117, ' ');
  header += '\n';
  Bytes bytes{0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<std::uint8_t>(header.size()), 0};
  bytes.insert(bytes.end(), header.begin(), header.end());
  const auto* raw = reinterpret_cast<const std::uint8_t*>(values.data());
  bytes.insert(bytes.end(), raw, raw + values.size() * sizeof(T));
  return bytes;
}

inline void append_big_endian(Bytes& bytes, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8)
    bytes.push_back(static_cast<std::uint8_t>(value >> shift));
}

/// `count` images; pixel p of image i is (7 i + p) mod 256.
inline Bytes idx_images(std::uint32_t count, std::uint32_t side = 28) {
  Bytes bytes;
  for (const std::uint32_t value : {2051U, count, side, side}) append_big_endian(bytes, value);
  for (std::uint32_t i = 0; i < count; ++i) {
    for (std::uint32_t p = 0; p < side * side; ++p)
      bytes.push_back(static_cast<std::uint8_t>(7 * i + p));
  }
  return bytes;
}

/// Labels 0, 1, ..., 9, 0, ...
inline Bytes idx_labels(std::uint32_t count) {
  Bytes bytes;
  for (const std::uint32_t value : {2049U, count}) append_big_endian(bytes, value);
  for (std::uint32_t i = 0; i < count; ++i) bytes.push_back(static_cast<std::uint8_t>(i % 10));
  return bytes;
}

/// `count` records with label `label`; all red bytes are `red`, green 100, blue 200.
inline Bytes cifar_records(int count, std::uint8_t label, std::uint8_t red) {
  Bytes bytes;
  for (int i = 0; i < count; ++i) {
    bytes.push_back(label);
    for (const std::uint8_t value : {red, std::uint8_t{100}, std::uint8_t{200}}) {
      bytes.insert(bytes.end(), 1024, value);
    }
  }
  return bytes;
}

}  // namespace espalier
