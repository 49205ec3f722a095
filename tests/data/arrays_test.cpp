// The user's own arrays: the same numbers from npy and HDF5 in every storage, mapping, splits,
// normalisation, and refusals.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "espalier/base/hdf5.h"
#include "fixture.h"

namespace espalier {
namespace {

using Shape = std::vector<std::int64_t>;

class Arrays : public DataFolder {
 protected:
  /// Six samples of two numbers 0, 1, 2, ...; labels 0, 1, 2, 0, 1, 2; the last two rows test.
  void write_all() const {
    write("x.npy", npy<float>("<f4", "(6, 2)", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
    write("y.npy", npy<std::int64_t>("<i8", "(6,)", {0, 1, 2, 0, 1, 2}));
    write("split.npy", npy<std::uint8_t>("|u1", "(6,)", {0, 0, 0, 0, 1, 1}));
  }
  std::string refusal(const std::string& settings = "") const {
    return data_error([&] { load("arrays", settings); });
  }
  bool is_mapped(const std::string& name) const {
    std::ifstream maps("/proc/self/maps");
    const std::string content{std::istreambuf_iterator<char>(maps), {}};
    return content.find((folder_ / name).string()) != std::string::npos;
  }
};

std::vector<float> values(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous().flatten();
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

TEST_F(Arrays, NpyFilesAreMappedAndSplitByTheirColumn) {
  write_all();
  write("client.npy", npy<std::int32_t>("<i4", "(6,)", {1, 0, 0, 1, 7, 7}));
  const Dataset data = load("arrays");
  EXPECT_TRUE(is_mapped("x.npy"));
  EXPECT_EQ(data.files.size(), 4U);
  EXPECT_EQ(data.shape.sample, (Shape{2}));
  EXPECT_EQ(data.shape.classes, 3);
  EXPECT_EQ(data.shape.vocabulary, 0);
  ASSERT_EQ(data.train->size(), 4);
  ASSERT_EQ(data.test->size(), 2);
  EXPECT_EQ(values(data.train->inputs(Shape{3, 0})), (std::vector<float>{6, 7, 0, 1}));
  EXPECT_EQ(values(data.test->inputs(Shape{1})), (std::vector<float>{10, 11}));
  EXPECT_EQ(data.train->label(2), 2);
  EXPECT_EQ(data.test->labels(Shape{1, 0})[0].item<std::int64_t>(), 2);
  EXPECT_EQ(data.client_of, (std::vector<std::int32_t>{1, 0, 0, 1}));
  const Dataset part = load("arrays", "train_limit = 3\ntest_limit = 1\n");
  EXPECT_EQ(part.train->size(), 3);
  EXPECT_EQ(part.test->size(), 1);
  EXPECT_EQ(part.client_of.size(), 3U);
}

TEST_F(Arrays, FilesAreFoundByFolderAndByPrefix) {
  write_all();
  for (const char* name : {"x.npy", "y.npy", "split.npy"}) {
    write(std::string("sub/") + name, read(name));
    write(std::string("sub/mine-") + name, read(name));
  }
  EXPECT_EQ(load("arrays", "file = sub\n").files[0], folder_ / "sub/x.npy");
  EXPECT_EQ(load("arrays", "file = sub/mine-\n").files[0], folder_ / "sub/mine-x.npy");
  EXPECT_EQ(load("arrays", "file = " + (folder_ / "sub").string() + "\n").files[2],
            folder_ / "sub/split.npy");
  write("arrays.h5", Bytes{0});
  try {
    load("arrays");
    ADD_FAILURE() << "took one of two";
  } catch (const InputError& error) {
    EXPECT_MENTIONS(std::string(error.what()), "arrays.h5 and ");
    EXPECT_MENTIONS(std::string(error.what()), "x.npy exist: set data.file to arrays.h5");
  }
  EXPECT_EQ(std::filesystem::path(load("arrays", "file = .\n").files[0]).filename(), "x.npy");
}

/// Writes a dataset of doubles in the given type, chunked and compressed on request.
void put(hid_t file, const char* name, const std::vector<hsize_t>& shape, hid_t type,
         const std::vector<double>& numbers, bool chunks = false) {
  const H5Handle space(H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
                       H5Sclose);
  const H5Handle list(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  if (chunks) {
    h5_check(H5Pset_chunk(list, static_cast<int>(shape.size()),
                          std::vector<hsize_t>(shape.size(), 2).data()),
             "chunk");
    h5_check(H5Pset_deflate(list, 4), "compress");
  }
  const H5Handle dataset(H5Dcreate2(file, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT),
                         H5Dclose);
  h5_check(H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers.data()),
           "write");
}

TEST_F(Arrays, Hdf5GivesTheSameNumbersHoweverStored) {
  h5_quiet();
  const std::vector<double> x{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11.5};
  struct Storage {
    const char* file;
    hid_t type;
    bool chunks;
    hsize_t user_block;  // other bytes before HDF5's own
    bool mapped;
  };
  for (const Storage& s : {Storage{"plain.h5", H5T_IEEE_F32LE, false, 0, true},
                           Storage{"block.h5", H5T_IEEE_F32LE, false, 512, true},
                           Storage{"double.h5", H5T_IEEE_F64LE, false, 0, true},
                           Storage{"chunks.h5", H5T_IEEE_F32LE, true, 0, false},
                           Storage{"turned.h5", H5T_IEEE_F32BE, false, 0, false}}) {
    {
      const H5Handle list(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
      h5_check(H5Pset_userblock(list, s.user_block), "set a user block");
      const H5Handle file(H5Fcreate((folder_ / s.file).c_str(), H5F_ACC_TRUNC, list, H5P_DEFAULT),
                          H5Fclose);
      put(file, "x", {6, 2}, s.type, x, s.chunks);
      put(file, "y", {6}, H5T_STD_I16BE, {0, 1, 2, 0, 1, 2});
      put(file, "split", {6}, H5T_STD_U8LE, {0, 0, 0, 0, 1, 1});
    }
    const Dataset data = load("arrays", std::string("file = ") + s.file + "\n");
    EXPECT_EQ(is_mapped(s.file), s.mapped) << s.file;
    EXPECT_EQ(values(data.train->inputs(Shape{3, 0})), (std::vector<float>{6, 7, 0, 1})) << s.file;
    EXPECT_EQ(values(data.test->inputs(Shape{1})), (std::vector<float>{10, 11.5})) << s.file;
    EXPECT_EQ(data.train->label(2), 2);
  }
}

TEST_F(Arrays, BytesAreImagesFromZeroToOne) {
  write_all();
  std::vector<std::uint8_t> bytes(6 * 4);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(11 * i);
  write("x.npy", npy("|u1", "(6, 2, 2)", bytes));
  const Dataset data = load("arrays");
  EXPECT_EQ(data.shape.sample, (Shape{1, 2, 2}));  // grey images have one channel
  const std::vector<float> first = values(data.train->inputs(Shape{1}));
  for (int i = 0; i < 4; ++i) {
    // Scaled by 1 / 255 in double and rounded to a float: at most one unit in the last place away.
    EXPECT_FLOAT_EQ(first[i], static_cast<float>(11 * (4 + i)) / 255.0F);
  }
}

template <class T>
Bytes counted(const char* type, const char* shape) {
  std::vector<T> numbers(24);
  std::iota(numbers.begin(), numbers.end(), T{0});
  return npy(type, shape, numbers);
}

TEST_F(Arrays, IntegersOfAnyWidthAreNumbersAndOnlyBytesOfImagesArePixels) {
  write_all();
  // Whichever type a file has, its numbers are 0 to 23, four in each sample.
  for (const char* shape : {"(6, 4)", "(6, 1, 2, 2)"}) {
    const bool images = std::string(shape) != "(6, 4)";
    const auto expect = [&](const char* type, const Bytes& file, bool pixels = false) {
      write("x.npy", file);
      const std::vector<float> found = values(load("arrays").train->inputs(Shape{3}));
      for (int i = 0; i < 4; ++i) {
        const float number = static_cast<float>(12 + i);
        EXPECT_FLOAT_EQ(found[static_cast<std::size_t>(i)], pixels ? number / 255.0F : number)
            << type << " " << shape;
      }
    };
    expect("|i1", counted<std::int8_t>("|i1", shape));
    expect("<i2", counted<std::int16_t>("<i2", shape));
    expect("<i4", counted<std::int32_t>("<i4", shape));
    expect("<i8", counted<std::int64_t>("<i8", shape));
    expect("<u2", counted<std::uint16_t>("<u2", shape));
    expect("<u4", counted<std::uint32_t>("<u4", shape));
    expect("<f4", counted<float>("<f4", shape));
    expect("|u1", counted<std::uint8_t>("|u1", shape), images);
  }
}

TEST_F(Arrays, NormalisationIsThatOfTheTrainingSamples) {
  write_all();
  const at::Tensor computed = load("arrays", "normalise = computed\n").train->inputs(all_of(4));
  // Training columns 0, 2, 4, 6 and 1, 3, 5, 7: means 3 and 4, deviation sqrt(5).
  for (int i = 0; i < 4; ++i) {
    for (int c = 0; c < 2; ++c) {
      EXPECT_FLOAT_EQ(computed[i][c].item<float>(),
                      static_cast<float>((2 * i + c - (3 + c)) / std::sqrt(5.0)));
    }
  }
  const std::string given = "normalise = given\nmean = 1, 2\ndeviation = 4\n";
  const Dataset data = load("arrays", given);
  EXPECT_EQ(values(data.train->inputs(Shape{2})), (std::vector<float>{0.75, 0.75}));
  for (const char* bad :
       {"mean = 1, 2, 3\ndeviation = 4\n", "mean = 1\n", "mean = 1\ndeviation = 0\n"}) {
    EXPECT_THROW(load("arrays", std::string("normalise = given\n") + bad), InputError) << bad;
  }
  // Channels of images, a constant one among them: 0, 0, 2, 2 and 5, 5, 5, 5.
  write("x.npy", npy<float>("<f4", "(2, 2, 1, 2)", {0, 0, 5, 5, 2, 2, 5, 5}));
  write("y.npy", npy<std::int64_t>("<i8", "(2,)", {0, 1}));
  write("split.npy", npy<std::int64_t>("<i8", "(2,)", {0, 0}));
  EXPECT_MENTIONS(refusal(), "no test samples");
  write("x.npy", npy<float>("<f4", "(3, 2, 1, 2)", {0, 0, 5, 5, 2, 2, 5, 5, 9, 9, 9, 9}));
  write("y.npy", npy<std::int64_t>("<i8", "(3,)", {0, 1, 1}));
  write("split.npy", npy<std::int64_t>("<i8", "(3,)", {0, 0, 1}));
  EXPECT_EQ(values(load("arrays", "normalise = computed\n").train->inputs(Shape{1})),
            (std::vector<float>{1, 1, 0, 0}));
}

TEST_F(Arrays, AConstantUpToRoundingIsOnlyMoved) {
  // Each has a value far from the others in the one test row, which a tiny deviation must not
  // magnify.
  constexpr std::int64_t kRows = 1001;
  const double next = std::nextafter(0.3, 1);
  const std::vector<std::function<double(std::int64_t)>> constants{
      [](std::int64_t) { return 7.31; }, [](std::int64_t) { return -1e-7; },
      [&](std::int64_t i) { return i % 3 == 0 ? next : 0.3; },
      [](std::int64_t i) { return 1e6 + 1e-8 * (i % 7); }};
  for (const auto& constant : constants) {
    std::vector<double> x;
    for (std::int64_t i = 0; i < kRows; ++i) {
      x.push_back(constant(i));
      x.push_back(1e3 + i % 2);  // not a constant: deviation 1/2
    }
    x[2 * kRows - 2] += 1;
    std::vector<std::uint8_t> y(kRows, 0), split(kRows, 0);
    y[0] = split.back() = 1;
    write("x.npy", npy("<f8", "(1001, 2)", x));
    write("y.npy", npy("|u1", "(1001,)", y));
    write("split.npy", npy("|u1", "(1001,)", split));
    const Dataset data = load("arrays", "normalise = computed\n");
    EXPECT_NEAR(data.test->inputs(Shape{0})[0][0].item<double>(), 1, 1e-6) << constant(0);
    EXPECT_NEAR(data.train->inputs(Shape{3})[0][0].item<double>(), 0, 1e-6) << constant(0);
    EXPECT_NEAR(data.train->inputs(Shape{3})[0][1].item<double>(), 1, 1e-6);
  }
}

TEST_F(Arrays, IntegersAreTokensWhereTheModelOrAnOptionOrTheLabelsSaySo) {
  write("x.npy", npy<std::int64_t>("<i8", "(4, 3)", {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 1, 1}));
  write("y.npy", npy<std::int64_t>("<i8", "(4,)", {0, 1, 1, 0}));
  write("split.npy", npy<std::int64_t>("<i8", "(4,)", {0, 1, 0, 0}));
  const Dataset numbers = load("arrays", "vocabulary = 10\n");
  EXPECT_EQ(numbers.shape.vocabulary, 0);
  EXPECT_EQ(values(numbers.train->inputs(Shape{1})), (std::vector<float>{7, 8, 9}));
  const std::string reads_tokens = "vocabulary = 10\n[model]\nname = encoder\n";
  EXPECT_EQ(load("arrays", "array_values = numbers\n" + reads_tokens).shape.vocabulary, 0);
  EXPECT_EQ(load("arrays", "array_values = tokens\nvocabulary = 10\n").shape.vocabulary, 10);
  const Dataset text = load("arrays", reads_tokens);
  EXPECT_EQ(text.shape.vocabulary, 10);
  EXPECT_EQ(text.shape.classes, 2);
  EXPECT_FALSE(text.shape.next_token);
  const at::Tensor x = text.train->inputs(Shape{1});
  EXPECT_EQ(x.scalar_type(), at::kLong);
  EXPECT_TRUE(at::equal(x, at::arange(7, 10).unsqueeze(0)));
  EXPECT_MENTIONS(refusal("array_values = tokens\nvocabulary = 9\n"), "row 2 (from 0) has 9");
  EXPECT_MENTIONS(refusal("array_values = tokens\nvocabulary = 9\n"), "raise data.vocabulary");
  write("x.npy", npy<std::int64_t>("<i8", "(4, 3)", {1, 2, 3, 4, -5, 6, 7, 8, 9, 1, 1, 1}));
  EXPECT_MENTIONS(refusal(reads_tokens), "row 1 (from 0) has -5");
  EXPECT_MENTIONS(refusal(reads_tokens), "0 to 9; if these are numbers, set data.array_values =");
  write("x.npy", npy<std::int64_t>("<i8", "(4, 3)", {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 1, 1}));
  write("y.npy", npy<std::int64_t>("<i8", "(4, 3)", {2, 3, 4, 5, 6, 7, 8, 9, 1, 1, 1, 1}));
  const Dataset model = load("arrays", "vocabulary = 10\n");
  EXPECT_TRUE(model.shape.next_token);
  EXPECT_EQ(model.shape.classes, 10);
  EXPECT_EQ(model.train->label(1), 0);
  EXPECT_TRUE(at::equal(model.train->labels(Shape{0}), at::arange(2, 5).unsqueeze(0)));
  EXPECT_MENTIONS(refusal("vocabulary = 10\nclasses = 3\nnormalise = none\naugment = none\n"),
                  "accepted");
}

TEST_F(Arrays, WithoutASplitAShareIsDrawnByTheSeed) {
  std::vector<float> x(200);
  std::vector<std::uint8_t> y(200);
  for (std::size_t i = 0; i < 200; ++i) {
    x[i] = static_cast<float>(i);
    y[i] = i % 2;
  }
  write("x.npy", npy("<f4", "(200,)", x));
  write("y.npy", npy("|u1", "(200,)", y));
  const auto tests = [this](const std::string& rest) {
    const Dataset data = load("arrays", rest);
    EXPECT_EQ(data.shape.sample, (Shape{1}));
    std::vector<float> own = values(data.test->inputs(all_of(data.test->size())));
    std::vector<float> all = values(data.train->inputs(all_of(data.train->size())));
    all.insert(all.end(), own.begin(), own.end());
    std::sort(all.begin(), all.end());
    for (int i = 0; i < 200; ++i) EXPECT_EQ(all[i], static_cast<float>(i));
    return own;
  };
  EXPECT_EQ(tests("").size(), 20U);
  EXPECT_EQ(tests(""), tests(""));
  EXPECT_EQ(tests("test_share = 0.25\n").size(), 50U);
  // Two of the 200-choose-20 draws agree by chance once in 10^27.
  EXPECT_NE(tests(""), tests("[run]\nseed = 2\n"));
}

TEST_F(Arrays, WhatCannotBeUsedIsRefusedByFileAndRow) {
  EXPECT_MENTIONS(refusal(), "arrays.h5 is missing");
  write_all();
  EXPECT_EQ(refusal(), "accepted");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::string x_type = "<f4", x_shape = "(6, 2)";
  struct Damage {
    const char* file;
    Bytes content;
    const char* words;
  };
  const std::vector<float> good(12);
  std::vector<float> with_nan = good, with_infinity = good;
  with_nan[7] = nan;
  with_infinity[11] = infinity;
  std::vector<double> too_large(12);
  too_large[2] = 1e300;
  Bytes cut = npy(x_type, x_shape, good);
  cut.pop_back();
  Bytes longer = npy(x_type, x_shape, good);
  longer.push_back(0);
  Bytes magic = npy(x_type, x_shape, good);
  magic[1] = 'M';
  Bytes header = npy(x_type, x_shape, good);
  header[8] = 255;
  header[9] = 255;
  const auto labels = [](const std::vector<std::int64_t>& values) {
    return npy("<i8", "(" + std::to_string(values.size()) + ",)", values);
  };
  const std::vector<Damage> damages{
      {"x.npy", npy(x_type, x_shape, with_nan), "row 3 (from 0) has nan"},
      {"x.npy", npy(x_type, x_shape, with_infinity), "row 5 (from 0) has inf"},
      {"x.npy", npy("<f8", x_shape, too_large), "row 1 (from 0) has 1e+300"},
      {"x.npy", cut, "is cut short"},
      {"x.npy", longer, "after its end"},
      {"x.npy", magic, "not an npy file"},
      {"x.npy", header, "header is damaged"},
      {"x.npy", {}, "not an npy file"},
      {"x.npy", npy(x_type, "(6, -2)", good), "header is damaged"},
      {"x.npy", npy(x_type, "(6, 99999999999999, 99999999999999)", good), "is cut short"},
      {"x.npy", npy("<c8", "(6, 1)", good), "'<c8'"},
      {"x.npy", npy("|O", x_shape, good), "'|O'"},
      {"x.npy", npy("<U1", x_shape, good), "'<U1'"},
      {"x.npy", npy("<f4", "(0, 2)", std::vector<float>()), "is empty"},
      {"x.npy", npy("<f4", "(5, 2)", std::vector<float>(10)), "5 rows but"},
      {"y.npy", npy("<i8", "(6, 2)", std::vector<std::int64_t>(12)), "2 numbers a row"},
      {"y.npy", npy("<f4", "(6,)", std::vector<float>(6)), "must be integers"},
      {"y.npy", labels({0, 1, 2, 0, 1}), "5: they must belong together"},
      {"y.npy", labels({0, 1, 2, 0, -1, 2}), "row 4 (from 0) has -1"},
      {"y.npy", labels({0, 1, 3, 0, 1, 3}), "class 2 has no sample"},
      {"y.npy", labels({0, 0, 0, 0, 0, 0}), "at least two classes"},
      {"split.npy", labels({0, 0, 2, 0, 1, 1}), "row 2 (from 0) has 2"},
      {"split.npy", labels({0, 0, 0, 0, 0, 0}), "no test samples"},
      {"split.npy", labels({1, 1, 1, 1, 1, 1}), "no training samples"},
      {"client.npy", labels({0, 0, 0, 0, 0}), "5: they must belong together"},
      {"client.npy", labels({0, 0, 0, -3, 0, 0}), "row 3 (from 0) has -3"},
  };
  for (const Damage& damage : damages) {
    std::filesystem::remove(folder_ / "client.npy");
    write_all();
    write(damage.file, damage.content);
    EXPECT_MENTIONS(refusal(), damage.words);
    EXPECT_MENTIONS(refusal(), damage.file);
  }
  std::filesystem::remove(folder_ / "client.npy");
  write_all();
  EXPECT_MENTIONS(refusal("array_values = tokens\n"), "holds float32 in 2 dimensions");
  EXPECT_MENTIONS(refusal("classes = 2\n"), "row 2 (from 0) has 2");
  EXPECT_EQ(load("arrays", "classes = 9\n").shape.classes, 9);
  EXPECT_MENTIONS(refusal("test_share = 0\n"), "accepted");  // the column decides
  std::filesystem::remove(folder_ / "split.npy");
  EXPECT_MENTIONS(refusal("test_share = 0\n"), "no test samples");
  EXPECT_MENTIONS(refusal("test_share = 1\n"), "no training samples");
  std::filesystem::remove(folder_ / "y.npy");
  EXPECT_MENTIONS(refusal(), "has no `y`");
}

TEST_F(Arrays, DamagedHdf5FilesAreNamed) {
  h5_quiet();
  write("arrays.h5", std::string("no such thing"));
  EXPECT_MENTIONS(refusal(), "not an HDF5 file");
  const std::string path = (folder_ / "arrays.h5").string();
  {
    const H5Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose);
    put(file, "x", {600, 2}, H5T_IEEE_F32LE, std::vector<double>(1200));
  }
  EXPECT_MENTIONS(refusal(), "has no `y`");
  const Bytes whole = read("arrays.h5");
  write("arrays.h5", Bytes(whole.begin(), whole.begin() + 3000));
  EXPECT_MENTIONS(refusal(), "cut short");
  {
    const H5Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose);
    const H5Handle group(H5Gcreate2(file, "x", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  }
  EXPECT_MENTIONS(refusal(), "arrays.h5: x cannot be read");
}

using Extents = std::vector<hsize_t>;

/// A file with y of these labels, and x of these extents, made with `list` and not written.
H5Handle unwritten(const std::string& path, const Extents& shape, hid_t list,
                   const std::vector<double>& labels) {
  H5Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose);
  put(file, "y", {labels.size()}, H5T_STD_I64LE, labels);
  const H5Handle space(H5Screate_simple(2, shape.data(), nullptr), H5Sclose);
  const H5Handle x(H5Dcreate2(file, "x", H5T_IEEE_F64LE, space, H5P_DEFAULT, list, H5P_DEFAULT),
                   H5Dclose);
  return file;
}

TEST_F(Arrays, ExtentsBeyondTheFileAreRefused) {
  h5_quiet();
  const std::string path = (folder_ / "arrays.h5").string();
  const H5Handle chunks(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  h5_check(H5Pset_chunk(chunks, 2, Extents{8, 1}.data()), "chunk");
  // The last has 2^64 elements, which is 0 in 64 bits.
  for (const Extents& shape : {Extents{6'000'000, 2}, Extents{hsize_t{1} << 40, 3},
                               Extents{hsize_t{1} << 33, hsize_t{1} << 31}}) {
    unwritten(path, shape, chunks, {0, 1, 2, 0, 1, 2}).close();
    const std::string said = refusal();
    EXPECT_MENTIONS(said, "arrays.h5: x ");
    EXPECT_TRUE(said.find("announces more numbers than its file holds") != std::string::npos ||
                said.find("has an impossible size") != std::string::npos)
        << said;
  }
}

TEST_F(Arrays, LargePackedDatasetsAreRead) {
  h5_quiet();
  const std::string path = (folder_ / "arrays.h5").string();
  constexpr hsize_t kRows = 9000, kColumns = 1000;  // 72 MB, and far less in the file
  static_assert(kRows * kColumns * sizeof(double) > kUnwrittenBytes);
  const H5Handle packed(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  h5_check(H5Pset_chunk(packed, 2, Extents{1000, kColumns}.data()), "chunk");
  h5_check(H5Pset_deflate(packed, 1), "compress");
  std::vector<double> x(kRows * kColumns);
  x.back() = 2.5;
  {
    std::vector<double> labels(kRows);
    labels[0] = 1;
    const H5Handle file = unwritten(path, {kRows, kColumns}, packed, labels);
    const H5Handle dataset(H5Dopen2(file, "x", H5P_DEFAULT), H5Dclose);
    h5_check(H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, x.data()),
             "write");
  }
  EXPECT_LT(read("arrays.h5").size(), 1'000'000U);
  const Dataset data = load("arrays", "partition = iid\n");
  EXPECT_EQ(data.train->size() + data.test->size(), static_cast<std::int64_t>(kRows));
}

TEST_F(Arrays, LengthsAreComparedBeforeNumbersAreRead) {
  h5_quiet();
  const std::string path = (folder_ / "arrays.h5").string();
  const H5Handle checked(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  h5_check(H5Pset_chunk(checked, 2, Extents{7, 2}.data()), "chunk");
  h5_check(H5Pset_fletcher32(checked), "check");
  const std::vector<double> x(14, 1234.5);
  for (const bool fits : {true, false}) {
    {
      const H5Handle file =
          unwritten(path, {7, 2}, checked, fits ? std::vector<double>{0, 1, 0, 1, 0, 1, 1} : x);
      const H5Handle dataset(H5Dopen2(file, "x", H5P_DEFAULT), H5Dclose);
      h5_check(H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, x.data()),
               "write");
    }
    // A number that is not that of its checksum, so that reading it is an error.
    Bytes bytes = read("arrays.h5");
    const auto* pattern = reinterpret_cast<const std::uint8_t*>(x.data());
    const auto at =
        std::search(bytes.begin(), bytes.end(), pattern, pattern + x.size() * sizeof(double));
    ASSERT_NE(at, bytes.end());
    at[6] ^= 1;
    write("arrays.h5", bytes);
    EXPECT_MENTIONS(refusal(), fits ? "x cannot be read: it is damaged"
                                    : "x has 7 rows but " + path + ": y has 14: they must belong");
  }
}

}  // namespace
}  // namespace espalier
