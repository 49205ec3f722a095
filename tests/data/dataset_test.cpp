#include "espalier/data/dataset.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "espalier/base/error.h"
#include "fixture.h"
#include "purpose.h"

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
  EXPECT_MENTIONS(refusal(), "not a gzip file");
  EXPECT_MENTIONS(refusal(), name);
}

TEST_F(DataFolder, CifarIsNormalisedPerChannelAndUsesTheBatchesThere) {
  Bytes batch = cifar_records(10000, 3, 51);
  write("data_batch_2.bin", batch);
  write("test_batch.bin", batch);
  const Bytes other = cifar_records(1, 9, 255);
  std::copy(other.begin(), other.end(), batch.begin() + std::ptrdiff_t{3073} * 7);
  write("data_batch_5.bin", batch);
  const Dataset data = load("cifar10");
  ASSERT_EQ(data.files.size(), 3U);
  EXPECT_EQ(fs::path(data.files[0]).filename(), "data_batch_2.bin");
  EXPECT_EQ(fs::path(data.files[1]).filename(), "data_batch_5.bin");
  EXPECT_EQ(fs::path(data.files[2]).filename(), "test_batch.bin");
  ASSERT_EQ(data.train->size(), 20000);
  EXPECT_EQ(data.test->size(), 10000);
  EXPECT_EQ(data.train->label(10006), 3);
  EXPECT_EQ(data.train->label(10007), 9);
  const at::Tensor x = data.train->inputs(std::vector<std::int64_t>{10007});
  ASSERT_EQ(x.sizes(), (std::vector<std::int64_t>{1, 3, 32, 32}));
  const double bytes[] = {255, 100, 200};
  const double mean[] = {0.4914, 0.4822, 0.4465};
  const double deviation[] = {0.2470, 0.2435, 0.2616};
  for (int c = 0; c < 3; ++c) {
    const auto expected = static_cast<float>((bytes[c] / 255.0 - mean[c]) / deviation[c]);
    EXPECT_TRUE(at::equal(x[0][c], at::full({32, 32}, expected)));
  }
  const Dataset part = load("cifar10", "train_limit = 10008\ntest_limit = 1\n");
  ASSERT_EQ(part.train->size(), 10008);
  EXPECT_EQ(part.train->label(10007), 9);
  EXPECT_EQ(part.test->size(), 1);
}

TEST_F(DataFolder, DamagedCifarFilesAreNamed) {
  const auto refusal = [this] { return data_error([this] { load("cifar10"); }); };
  EXPECT_MENTIONS(refusal(), "data_batch_1.bin");
  const std::string train = "cifar-10-batches-bin/data_batch_1.bin";
  const std::string test = "cifar-10-batches-bin/test_batch.bin";
  const Bytes good = cifar_records(10000, 9, 0);
  write(train, good);
  EXPECT_MENTIONS(refusal(), "test_batch.bin");
  EXPECT_MENTIONS(refusal(), "ESPALIER_DATA");
  write(test, good);
  EXPECT_EQ(refusal(), "accepted");
  Bytes bytes = good;
  bytes[std::size_t{3073} * 9999] = 10;
  write(test, bytes);
  EXPECT_MENTIONS(refusal(), "test_batch.bin: label 10 of sample 9999 is out of range");
  write(test, good);
  bytes = good;
  bytes.pop_back();
  write(train, bytes);
  EXPECT_MENTIONS(refusal(), "data_batch_1.bin is cut short");
  bytes.resize(std::size_t{3073} * 9999);  // at the end of a record
  write(train, bytes);
  EXPECT_MENTIONS(refusal(), "data_batch_1.bin is cut short");
  bytes.clear();
  write(train, bytes);
  EXPECT_MENTIONS(refusal(), "data_batch_1.bin is cut short");
  bytes = good;
  bytes.push_back(0);
  write(train, bytes);
  EXPECT_MENTIONS(refusal(), "data_batch_1.bin has bytes after its end");
}

TEST_F(DataFolder, Cifar100TakesTheFineLabel) {
  // A record: coarse label, fine label, pixels.
  const auto records = [](int count, std::uint8_t fine) {
    Bytes bytes;
    for (int i = 0; i < count; ++i) {
      bytes.push_back(19);
      bytes.push_back(fine);
      bytes.insert(bytes.end(), 3072, 255);
    }
    return bytes;
  };
  write("cifar-100-binary/test.bin", records(10000, 99));
  write("cifar-100-binary/train.bin", records(50000, 42));
  const Dataset data = load("cifar100");
  EXPECT_EQ(data.shape.classes, 100);
  EXPECT_EQ(data.train->size(), 50000);
  EXPECT_EQ(data.train->label(49999), 42);
  EXPECT_EQ(data.test->label(0), 99);
  const at::Tensor x = data.test->inputs(std::vector<std::int64_t>{9999});
  EXPECT_TRUE(at::equal(x[0][1], at::full({32, 32}, static_cast<float>((1 - 0.4865) / 0.2564))));
  write("cifar-100-binary/test.bin", records(10000, 100));
  EXPECT_MENTIONS(data_error([this] { load("cifar100"); }), "label 100 of sample 0");
  write("cifar-100-binary/test.bin", cifar_records(10000, 1, 0));
  EXPECT_MENTIONS(data_error([this] { load("cifar100"); }), "test.bin is cut short");
}

TEST_F(Mnist, FashionHasItsOwnFolderAndNormalisation) {
  write_all();
  EXPECT_EQ(load("fashion-mnist").files[0], folder_ / "train-images-idx3-ubyte");
  for (const char* name : {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                           "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}) {
    write(std::string("fashion-mnist/") + name, read(name));
  }
  const Dataset data = load("fashion-mnist");
  EXPECT_EQ(data.files[0], folder_ / "fashion-mnist/train-images-idx3-ubyte");
  const float first = data.train->inputs(all_of(1)).flatten()[200].item<float>();
  EXPECT_EQ(first, static_cast<float>((200 / 255.0 - 0.2860) / 0.3530));
}

TEST(Augment, IsACropOfThePaddedImageAndAFlipKeyedByTheStream) {
  const std::string settings =
      "[data]\nname = synthetic\nsynthetic_samples = 60\nsynthetic_shape = 3, 9, 7\n";
  const Dataset plain = load_dataset(data_config(settings));
  const Dataset data = load_dataset(data_config(settings + "augment = crop_flip\n"));
  const std::vector<std::int64_t> indices = all_of(60);
  const at::Tensor x = plain.train->inputs(indices);
  EXPECT_TRUE(at::equal(data.train->inputs(indices), x)) << "without a stream nothing changes";
  EXPECT_TRUE(at::equal(data.train->labels(indices), plain.train->labels(indices)));
  const auto stream = [](std::uint64_t step) { return Stream(1, kTest, 2, 3, step); };
  Stream first = stream(0);
  const at::Tensor changed = data.train->inputs(indices, &first);
  Stream again = stream(0);
  EXPECT_TRUE(at::equal(data.train->inputs(indices, &again), changed));
  Stream other = stream(1);
  EXPECT_FALSE(at::equal(data.train->inputs(indices, &other), changed));
  // Each image is one of the 81 crops of its padded self, or that crop mirrored.
  int flips = 0;
  int moves = 0;
  for (std::int64_t i = 0; i < 60; ++i) {
    const at::Tensor padded = at::constant_pad_nd(x[i], {4, 4, 4, 4});
    int found = 0;
    for (std::int64_t down = 0; down <= 8; ++down) {
      for (std::int64_t right = 0; right <= 8; ++right) {
        const at::Tensor crop =
            padded.slice(1, down, down + 9).slice(2, right, right + 7).contiguous();
        const bool as_is = at::equal(crop, changed[i]);
        const bool mirrored = at::equal(crop.flip(2), changed[i]);
        found += as_is || mirrored ? 1 : 0;
        flips += mirrored ? 1 : 0;
        moves += (as_is || mirrored) && (down != 4 || right != 4) ? 1 : 0;
      }
    }
    EXPECT_EQ(found, 1) << "image " << i;
  }
  // Of 60 fair draws 30 are expected with a deviation of 3.9; 1 of 81 crops leaves the image.
  EXPECT_GT(flips, 10);
  EXPECT_LT(flips, 50);
  EXPECT_GT(moves, 50);
  for (const char* name :
       {"synthetic\nsynthetic_shape = 50", "synthetic\nsynthetic_shape = 1, 4, 9"}) {
    EXPECT_THROW(load_dataset(data_config(std::string("[data]\nname = ") + name +
                                          "\naugment = crop_flip\n")),
                 InputError);
  }
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
    // Both splits have the same means: the mean of 200 test samples differs by at most 6 standard
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

TEST(Synthetic, TokensOfAClassFollowItsDistribution) {
  const std::string settings =
      "[data]\nname = synthetic\nsynthetic_samples = 2000\nsynthetic_classes = 2\n"
      "synthetic_vocabulary = 5\nlength = 50\n";
  const Dataset data = load_dataset(data_config(settings));
  EXPECT_EQ(data.shape.vocabulary, 5);
  EXPECT_EQ(data.shape.classes, 2);
  EXPECT_EQ(data.shape.sample, (std::vector<std::int64_t>{50}));
  EXPECT_FALSE(data.shape.next_token);
  const auto fractions = [](const Split& split, std::int64_t label) {
    const std::vector<std::int64_t> all = all_of(split.size());
    const at::Tensor own = split.inputs(all).index({split.labels(all).eq(label)});
    return own.flatten().bincount({}, 5).to(at::kDouble) / static_cast<double>(own.numel());
  };
  for (std::int64_t label = 0; label < 2; ++label) {
    // 50,000 and 10,000 tokens of one distribution: fractions differ with a deviation of at most
    // sqrt(0.25 / 50,000 + 0.25 / 10,000) = 0.0055; 5 deviations.
    const at::Tensor gap =
        (fractions(*data.train, label) - fractions(*data.test, label)).abs().max();
    EXPECT_LT(gap.item<double>(), 0.028);
  }
  EXPECT_GT((fractions(*data.train, 0) - fractions(*data.train, 1)).abs().max().item<double>(),
            0.028);
  // Without noise a class has only one token.
  const Dataset certain = load_dataset(data_config(settings + "synthetic_noise = 0\n"));
  EXPECT_EQ(fractions(*certain.train, 0).max().item<double>(), 1);
}

TEST(Synthetic, ChainsHaveTheEntropyThatIsStated) {
  const Dataset data =
      load_dataset(data_config("[data]\nname = synthetic\nsynthetic_samples = 4000\nlength = 31\n"
                               "synthetic_vocabulary = 11\nsynthetic_labels = next_token\n"));
  EXPECT_TRUE(data.shape.next_token);
  EXPECT_EQ(data.shape.classes, 11);
  EXPECT_EQ(data.test->size(), 800);
  const at::Tensor x = data.train->inputs(all_of(4000));
  const at::Tensor y = data.train->labels(all_of(4000));
  ASSERT_EQ(y.sizes(), (std::vector<std::int64_t>{4000, 31}));
  EXPECT_TRUE(at::equal(x.slice(1, 1), y.slice(1, 0, 30)));
  // Pairs: four tokens follow each token, in the fractions 1/2, 1/4, 1/8, 1/8. 124,000 pairs over
  // 11 tokens, at least 2,000 each: a fraction has a deviation of 0.011; 5 deviations.
  const at::Tensor pairs = (x * 11 + y).flatten().bincount({}, 121).view({11, 11}).to(at::kDouble);
  const at::Tensor sorted = std::get<0>(pairs.sort(1, true)) / pairs.sum(1, true);
  ASSERT_GT(pairs.sum(1).min().item<double>(), 2000);
  const at::Tensor expected = at::tensor({0.5, 0.25, 0.125, 0.125, 0., 0., 0., 0., 0., 0., 0.});
  EXPECT_LT((sorted - expected).abs().max().item<double>(), 0.056);
  // The test chains have the same successors.
  const at::Tensor test_pairs =
      (data.test->inputs(all_of(800)) * 11 + data.test->labels(all_of(800))).flatten();
  EXPECT_TRUE((pairs.flatten().index({test_pairs}) > 0).all().item<bool>());
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
