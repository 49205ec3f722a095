#include "espalier/data/dataset.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "espalier/base/error.h"
#include "fixture.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

/// Sets or unsets a variable until the end of the scope.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    value ? setenv(name, value, 1) : unsetenv(name);
  }
  ~Environment() { old_ ? setenv(name_, old_->c_str(), 1) : unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

class Mnist : public DataFolder {
 protected:
  void write_all(std::uint32_t train = 20, std::uint32_t test = 5) const {
    write("train-images-idx3-ubyte", idx_images(train));
    write("train-labels-idx1-ubyte", idx_labels(train));
    write("t10k-images-idx3-ubyte", idx_images(test));
    write("t10k-labels-idx1-ubyte", idx_labels(test));
  }
  std::string refusal() const {
    return data_error([this] { load("mnist"); });
  }
};

TEST_F(Mnist, ValuesAreNormalisedAsPublished) {
  write_all();
  const Dataset data = load("mnist");
  ASSERT_EQ(data.train->size(), 20);
  ASSERT_EQ(data.test->size(), 5);
  EXPECT_EQ(data.shape.classes, 10);
  EXPECT_EQ(data.files.size(), 4U);
  const std::vector<std::int64_t> indices{13, 2};
  const at::Tensor x = data.train->inputs(indices);
  ASSERT_EQ(x.sizes(), (std::vector<std::int64_t>{2, 1, 28, 28}));
  ASSERT_EQ(x.scalar_type(), at::kFloat);
  const float* values = x.data_ptr<float>();
  for (int k = 0; k < 2; ++k) {
    for (int p = 0; p < 784; ++p) {
      const double byte = (7 * indices[k] + p) % 256;
      ASSERT_EQ(values[784 * k + p], static_cast<float>((byte / 255.0 - 0.1307) / 0.3081));
    }
  }
  const at::Tensor labels = data.train->labels(indices);
  ASSERT_EQ(labels.scalar_type(), at::kLong);
  EXPECT_EQ(labels[0].item<std::int64_t>(), 3);
  EXPECT_EQ(labels[1].item<std::int64_t>(), 2);
}

TEST_F(Mnist, PackedAndPlainFilesAndBothFoldersGiveTheSame) {
  write_all(3, 2);
  const at::Tensor plain = load("mnist").train->inputs(all_of(3));
  fs::create_directories(folder_ / "mnist");
  for (const std::string name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                 "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}) {
    write_gz("mnist/" + name + ".gz", read(name));
    fs::remove(folder_ / name);
  }
  EXPECT_TRUE(at::equal(load("mnist").train->inputs(all_of(3)), plain));
}

TEST_F(Mnist, LimitsTakeTheFirstSamples) {
  write_all();
  const Dataset all = load("mnist");
  const Dataset data = load("mnist", "train_limit = 7\ntest_limit = 100\n");
  ASSERT_EQ(data.train->size(), 7);
  EXPECT_EQ(data.test->size(), 5);
  EXPECT_TRUE(at::equal(data.train->inputs(all_of(7)), all.train->inputs(all_of(7))));
}

TEST_F(Mnist, MissingFilesSayWhatToDo) {
  const std::string message = refusal();
  EXPECT_MENTIONS(message, "train-images-idx3-ubyte");
  EXPECT_MENTIONS(message, folder_.string());
  EXPECT_MENTIONS(message, "ESPALIER_DATA");
  write_all();
  fs::remove(folder_ / "t10k-labels-idx1-ubyte");
  EXPECT_MENTIONS(refusal(), "t10k-labels-idx1-ubyte");
}

TEST_F(Mnist, DamagedFilesAreNamed) {
  struct Damage {
    const char* file;
    std::function<void(Bytes&)> apply;
    const char* word;
  };
  const std::vector<Damage> damages{
      {"train-images-idx3-ubyte", [](Bytes& b) { b[3] = 1; }, "magic"},
      {"train-labels-idx1-ubyte", [](Bytes& b) { b[2] = 9; }, "magic"},
      {"train-images-idx3-ubyte", [](Bytes& b) { b.pop_back(); }, "cut short"},
      {"train-images-idx3-ubyte", [](Bytes& b) { b.resize(10); }, "cut short"},
      {"train-images-idx3-ubyte", [](Bytes& b) { b.clear(); }, "cut short"},
      {"train-images-idx3-ubyte", [](Bytes& b) { b.push_back(0); }, "after its end"},
      {"t10k-labels-idx1-ubyte", [](Bytes& b) { b.push_back(0); }, "after its end"},
      {"t10k-labels-idx1-ubyte", [](Bytes& b) { b[8] = 10; }, "out of range"},
      {"train-labels-idx1-ubyte", [](Bytes& b) { b = idx_labels(19); }, "19 labels"},
      {"train-images-idx3-ubyte", [](Bytes& b) { b = idx_images(20, 27); }, "27 x 27"},
      {"train-images-idx3-ubyte", [](Bytes& b) { std::fill(b.begin() + 4, b.begin() + 16, 255); },
       "cut short"},
  };
  for (const Damage& damage : damages) {
    write_all();
    Bytes bytes = read(damage.file);
    damage.apply(bytes);
    write(damage.file, bytes);
    const std::string message = refusal();
    EXPECT_MENTIONS(message, damage.word);
    EXPECT_MENTIONS(message, damage.file);
  }
}

TEST_F(Mnist, DamagedPackedFilesAreNamed) {
  write_all();
  fs::remove(folder_ / "train-images-idx3-ubyte");
  const std::string name = "train-images-idx3-ubyte.gz";
  write_gz(name, idx_images(20));
  EXPECT_EQ(refusal(), "accepted");
  const Bytes good = read(name);

  Bytes bytes = good;
  bytes.resize(bytes.size() - 9);
  write(name, bytes);
  EXPECT_MENTIONS(refusal(), "cut short");

  bytes = good;
  bytes[bytes.size() - 5] ^= 1;  // the checksum
  write(name, bytes);
  EXPECT_MENTIONS(refusal(), "damaged");

  bytes = good;
  bytes.push_back(0);
  write(name, bytes);
  EXPECT_MENTIONS(refusal(), "after its end");

  write(name, idx_images(20));
  EXPECT_MENTIONS(refusal(), "no gzip file");
  EXPECT_MENTIONS(refusal(), name);
}

TEST_F(DataFolder, CifarIsNormalisedPerChannelAndUsesTheBatchesThere) {
  write("data_batch_2.bin", cifar_records(2, 3, 51));
  write("data_batch_5.bin", cifar_records(1, 9, 255));
  write("test_batch.bin", cifar_records(4, 0, 0));
  const Dataset data = load("cifar10");
  ASSERT_EQ(data.files.size(), 3U);
  EXPECT_EQ(fs::path(data.files[0]).filename(), "data_batch_2.bin");
  EXPECT_EQ(fs::path(data.files[1]).filename(), "data_batch_5.bin");
  EXPECT_EQ(fs::path(data.files[2]).filename(), "test_batch.bin");
  ASSERT_EQ(data.train->size(), 3);
  EXPECT_EQ(data.test->size(), 4);
  EXPECT_EQ(data.train->label(1), 3);
  EXPECT_EQ(data.train->label(2), 9);
  const at::Tensor x = data.train->inputs(std::vector<std::int64_t>{2});
  ASSERT_EQ(x.sizes(), (std::vector<std::int64_t>{1, 3, 32, 32}));
  const double bytes[] = {255, 100, 200};
  const double mean[] = {0.4914, 0.4822, 0.4465};
  const double deviation[] = {0.2470, 0.2435, 0.2616};
  for (int c = 0; c < 3; ++c) {
    const auto expected = static_cast<float>((bytes[c] / 255.0 - mean[c]) / deviation[c]);
    EXPECT_TRUE(at::equal(x[0][c], at::full({32, 32}, expected)));
  }
  EXPECT_EQ(load("cifar10", "train_limit = 2\ntest_limit = 1\n").train->size(), 2);
}

TEST_F(DataFolder, DamagedCifarFilesAreNamed) {
  const auto refusal = [this] { return data_error([this] { load("cifar10"); }); };
  EXPECT_MENTIONS(refusal(), "data_batch_1.bin");
  write("cifar-10-batches-bin/data_batch_1.bin", cifar_records(2, 3, 0));
  EXPECT_MENTIONS(refusal(), "test_batch.bin");
  EXPECT_MENTIONS(refusal(), "ESPALIER_DATA");
  write("cifar-10-batches-bin/test_batch.bin", cifar_records(2, 10, 0));
  EXPECT_MENTIONS(refusal(), "out of range");
  write("cifar-10-batches-bin/test_batch.bin", cifar_records(2, 9, 0));
  EXPECT_EQ(refusal(), "accepted");
  Bytes bytes = cifar_records(2, 3, 0);
  bytes.pop_back();
  write("cifar-10-batches-bin/data_batch_1.bin", bytes);
  EXPECT_MENTIONS(refusal(), "data_batch_1.bin is cut short");
}

TEST_F(Mnist, FolderIsDataDirThenEnvironmentThenData) {
  write_all();
  {
    const Environment unset("ESPALIER_DATA", nullptr);
    EXPECT_EQ(data_folder(data_config("")), "data");
  }
  const Environment set("ESPALIER_DATA", folder_.c_str());
  EXPECT_EQ(data_folder(data_config("")), folder_);
  EXPECT_EQ(data_folder(data_config("[data]\ndir = elsewhere\n")), "elsewhere");
  const Dataset data =
      load_dataset(data_config("[data]\nname = mnist\ntrain_limit = 4\ntest_limit = 3\n"));
  EXPECT_EQ(data.train->size(), 4);
  EXPECT_EQ(data.test->size(), 3);
}

TEST(Digits, AreBalancedAndOfTheStatedSize) {
  const fs::path inputs = fs::path(__FILE__).parent_path() / "../../inputs/digits";
  const Dataset data = load_dataset(data_config("[data]\ndir = " + inputs.string() + "\n"));
  ASSERT_EQ(data.train->size(), 5000);
  ASSERT_EQ(data.test->size(), 1000);
  for (std::int64_t i = 0; i < 5000; ++i) ASSERT_EQ(data.train->label(i), i % 10);
  for (std::int64_t i = 0; i < 1000; ++i) ASSERT_EQ(data.test->label(i), i % 10);
  // The part is drawn evenly from MNIST, whose mean is 0 and deviation 1 after its normalisation;
  // the mean over 5,000 images varies by well below 0.02.
  const at::Tensor x = data.train->inputs(all_of(5000));
  EXPECT_NEAR(x.mean().item<double>(), 0, 0.02);
  EXPECT_NEAR(x.std().item<double>(), 1, 0.02);
  std::uintmax_t total = 0;
  for (const auto& entry : fs::directory_iterator(inputs)) total += entry.file_size();
  EXPECT_LT(total, 1'000'000U);
}

TEST(Digits, AreFoundFromTheSourceFolder) {
  const fs::path before = fs::current_path();
  fs::current_path(fs::path(__FILE__).parent_path() / "../..");
  const Dataset data = load_dataset(data_config("[data]\ntrain_limit = 5\n"));
  fs::current_path(before);
  EXPECT_EQ(data.train->size(), 5);
}

TEST(Synthetic, IsClassMeanPlusNoise) {
  const Dataset data = load_dataset(
      data_config("[data]\nname = synthetic\nsynthetic_samples = 4000\nsynthetic_classes = 4\n"
                  "synthetic_shape = 50\nsynthetic_noise = 2\n"));
  ASSERT_EQ(data.train->size(), 4000);
  ASSERT_EQ(data.test->size(), 800);
  EXPECT_EQ(data.shape.classes, 4);
  EXPECT_TRUE(data.files.empty());
  const at::Tensor x = data.train->inputs(all_of(4000));
  ASSERT_EQ(x.sizes(), (std::vector<std::int64_t>{4000, 50}));
  const at::Tensor test = data.test->inputs(all_of(800));
  const at::Tensor label = data.train->labels(all_of(4000));
  const at::Tensor test_label = data.test->labels(all_of(800));
  for (std::int64_t c = 0; c < 4; ++c) {
    const at::Tensor own = x.index({label.eq(c)});
    ASSERT_EQ(own.size(0), 1000);
    // 50,000 values about their means: the deviation has a standard error of 2 / sqrt(100,000) =
    // 0.006.
    EXPECT_NEAR((own - own.mean(0)).std().item<double>(), 2, 0.04);
    // Both splits share the means: the mean of 200 test samples differs by at most 6 standard
    // errors of 2 sqrt(1/1000 + 1/200) = 0.155.
    const at::Tensor gap = (test.index({test_label.eq(c)}).mean(0) - own.mean(0)).abs().max();
    EXPECT_LT(gap.item<double>(), 0.93);
    EXPECT_GT(gap.item<double>(), 0) << "train and test samples must differ";
  }
}

TEST(Synthetic, IsKeyedBySeedAndSampleAlone) {
  const auto load = [](const std::string& rest) {
    return load_dataset(
        data_config("[data]\nname = synthetic\nsynthetic_shape = 1, 4, 4\n" + rest));
  };
  const at::Tensor first = load("").train->inputs(all_of(50));
  EXPECT_TRUE(at::equal(load("synthetic_samples = 100\n").train->inputs(all_of(50)), first));
  EXPECT_TRUE(at::equal(load("train_limit = 50\n").train->inputs(all_of(50)), first));
  EXPECT_FALSE(at::equal(load("[run]\nseed = 2\n").train->inputs(all_of(50)), first));
}

TEST(Synthetic, ShapesThatAreNoneAreRefused) {
  for (const char* shape : {"0", "1, -2", "1.5", "10000, 10000"}) {
    EXPECT_THROW(
        data_sources()
            .get("synthetic")
            .value.shape(data_config(std::string("[data]\nsynthetic_shape = ") + shape + "\n")),
        InputError)
        << shape;
  }
}

TEST(Sources, StateTheShapeThatTheyLoad) {
  const fs::path inputs = fs::path(__FILE__).parent_path() / "../../inputs/digits";
  for (const char* name : {"digits", "synthetic"}) {
    const Config config =
        data_config(std::string("[data]\nname = ") + name + "\ndir = " + inputs.string() + "\n");
    const DataShape shape = data_sources().get(name).value.shape(config);
    const Dataset data = load_dataset(config);
    EXPECT_EQ(shape.sample, data.shape.sample);
    EXPECT_EQ(shape.classes, data.shape.classes);
    EXPECT_EQ(data.test->inputs(all_of(1)).numel(), 784);
  }
}

TEST(RealData, MnistHasItsPublishedLabelCounts) {
  if (!real_data()) GTEST_SKIP() << "skipped: ESPALIER_DATA names no folder with MNIST";
  const Dataset data =
      load_dataset(data_config("[data]\nname = mnist\ndir = " + std::string(real_data()) + "\n"));
  const auto counts = [](const Split& split) {
    std::array<int, 10> result{};
    for (std::int64_t i = 0; i < split.size(); ++i) ++result.at(split.label(i));
    return result;
  };
  EXPECT_EQ(counts(*data.train),
            (std::array{5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949}));
  EXPECT_EQ(counts(*data.test),
            (std::array{980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009}));
  // The published mean and deviation, to their four digits (mean / deviation: 0.1307 / 0.3081).
  const at::Tensor x = data.train->inputs(all_of(60000));
  EXPECT_NEAR(x.mean(at::kDouble).item<double>(), 0, 0.00005 / 0.3081);
  EXPECT_NEAR(x.std().item<double>(), 1, 0.0005);
}

TEST(RealData, CifarLoadsWithItsClasses) {
  if (!real_data()) GTEST_SKIP() << "skipped: ESPALIER_DATA names no folder with CIFAR-10";
  const Dataset data =
      load_dataset(data_config("[data]\nname = cifar10\ndir = " + std::string(real_data()) + "\n"));
  EXPECT_EQ(data.train->size(), 10000 * (static_cast<std::int64_t>(data.files.size()) - 1));
  std::array<int, 10> counts{};
  for (std::int64_t i = 0; i < data.test->size(); ++i) ++counts.at(data.test->label(i));
  for (const int count : counts) EXPECT_EQ(count, 1000);
}

}  // namespace
}  // namespace espalier
