// Errors, registry, archive, log, files and HDF5 handles.

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "espalier/base/archive.h"
#include "espalier/base/error.h"
#include "espalier/base/hdf5.h"
#include "espalier/base/log.h"
#include "espalier/base/new_file.h"
#include "espalier/base/registry.h"

namespace espalier {
namespace {

using testing::internal::CaptureStderr;
using testing::internal::CaptureStdout;
using testing::internal::GetCapturedStderr;
using testing::internal::GetCapturedStdout;

// A file name of this test in the temporary folder, free before and after.
class Scratch {
 public:
  explicit Scratch(const std::string& name)
      : path_(std::filesystem::path(testing::TempDir()) / ("espalier-base-" + name)) {
    std::filesystem::remove_all(path_);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Check, NamesExpressionRankFileLineAndDetail) {
  set_message_rank(3);
  try {
    ESPALIER_CHECK(1 + 1 == 3, "sum {}", 2);
    FAIL();
  } catch (const Error& error) {
    set_message_rank(0);
    const std::string text = error.what();
    EXPECT_EQ(error.status(), Status::internal);
    EXPECT_TRUE(contains(text, "1 + 1 == 3")) << text;
    EXPECT_TRUE(contains(text, "rank 3")) << text;
    EXPECT_TRUE(contains(text, "base_test.cpp:")) << text;
    EXPECT_TRUE(contains(text, "sum 2")) << text;
  }
}

TEST(Errors, CarryTheStatusesThatScriptsRelyOn) {
  EXPECT_EQ(static_cast<int>(InputError("").status()), 2);
  EXPECT_EQ(static_cast<int>(DataError("").status()), 3);
  EXPECT_EQ(static_cast<int>(OutputError("").status()), 4);
  EXPECT_EQ(static_cast<int>(NotFiniteError("").status()), 5);
  EXPECT_EQ(static_cast<int>(NoClientError("").status()), 6);
  EXPECT_EQ(static_cast<int>(Status::internal), 70);
  EXPECT_EQ(static_cast<int>(Status::stopped), 85);
}

TEST(RegistryTest, FindsListsAndRefuses) {
  Registry<int> rules("rule");
  rules.add("one", "the first", 1);
  rules.add("two", "the second", 2);
  EXPECT_EQ(rules.get("two").value, 2);
  EXPECT_EQ(rules.find("three"), nullptr);
  EXPECT_EQ(rules.items().front().help, "the first");
  try {
    rules.get("three");
    FAIL();
  } catch (const InputError& error) {
    EXPECT_STREQ(error.what(), "no rule is called 'three'; there are: one, two");
  }
  EXPECT_THROW(rules.add("one", "again", 3), Error);
}

struct Sample {
  std::int64_t integer = 0;
  double real = 0;
  std::string text;
  std::vector<std::int64_t> integers;
  std::vector<double> reals;
  Bytes bytes;
  std::array<float, 3> floats{};

  void archive(Archive& archive) {
    archive.open("sample");
    archive.value("integer", integer);
    archive.value("real", real);
    archive.value("text", text);
    archive.value("integers", integers);
    archive.value("reals", reals);
    archive.value("bytes", bytes);
    archive.value("floats", std::span<float>(floats));
    archive.close();
  }
  bool operator==(const Sample&) const = default;
};

TEST(ByteArchiveTest, RestoresWhatItSaved) {
  const std::string with_zero("a\0b", 3);
  const Sample empty;
  const Sample full{
      -5, 0.1, with_zero, {1, -2, 3}, {0.5, -0.0}, {std::byte{0}, std::byte{255}}, {1, 2, 3}};
  for (Sample saved : {full, empty}) {
    ByteArchive writer;
    EXPECT_FALSE(writer.loading());
    saved.archive(writer);
    const Bytes bytes = writer.take();
    ByteArchive reader(bytes);
    EXPECT_TRUE(reader.loading());
    // Loading replaces the old values.
    Sample loaded = full;
    loaded.archive(reader);
    EXPECT_EQ(loaded, saved);
    EXPECT_TRUE(reader.at_end());
  }
}

TEST(ByteArchiveTest, EveryTruncationIsAnError) {
  Sample saved{1, 2, "text", {1, 2}, {3}, {std::byte{4}}, {5, 6, 7}};
  ByteArchive writer;
  saved.archive(writer);
  const Bytes bytes = writer.take();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    ByteArchive reader(std::span<const std::byte>(bytes.data(), length));
    Sample loaded;
    EXPECT_THROW(loaded.archive(reader), Error) << length;
  }
}

TEST(ByteArchiveTest, RefusesAListLengthBeyondItsBytesAndAWrongCountOfFloats) {
  ByteArchive writer;
  std::int64_t length = std::int64_t{1} << 60;
  writer.value("length", length);
  Bytes bytes = writer.take();
  std::vector<double> reals;
  ByteArchive reader(bytes);
  EXPECT_THROW(reader.value("reals", reals), Error);

  ByteArchive floats;
  std::array<float, 2> two{1, 2};
  floats.value("two", std::span<float>(two));
  bytes = floats.take();
  std::array<float, 1> one{};
  ByteArchive again(bytes);
  EXPECT_THROW(again.value("one", std::span<float>(one)), Error);
}

// The text that a note, a warning and an error write to the terminal at one verbosity on one rank.
std::pair<std::string, std::string> terminal(Verbosity verbosity, int rank) {
  set_verbosity(verbosity);
  set_message_rank(rank);
  CaptureStdout();
  CaptureStderr();
  log_note("done: {} rounds=1");
  log_warning("w");
  log_error("e");
  set_verbosity(Verbosity::normal);
  set_message_rank(0);
  return {GetCapturedStdout(), GetCapturedStderr()};
}

TEST(Log, SendsEachKindWhereItBelongs) {
  using Pair = std::pair<std::string, std::string>;
  const std::string troubles = "warning: w\nerror: e\n";
  EXPECT_EQ(terminal(Verbosity::normal, 0), Pair("done: {} rounds=1\n", troubles));
  EXPECT_EQ(terminal(Verbosity::quiet, 0), Pair("", troubles));
  EXPECT_EQ(terminal(Verbosity::verbose, 0), Pair("done: {} rounds=1\n", troubles));
  EXPECT_EQ(terminal(Verbosity::verbose, 1), Pair("", ""));
}

TEST(Log, FileGetsEverythingWithATimeAndIsAppendedTo) {
  const Scratch scratch("log.txt");
  for (int start = 0; start < 2; ++start) {
    open_log(scratch.path());
    terminal(Verbosity::quiet, 0);
    close_log();
  }
  terminal(Verbosity::quiet, 0);
  std::ifstream file(scratch.path());
  std::vector<std::string> messages;
  for (std::string line; std::getline(file, line);) {
    const std::size_t blank = line.find(' ');
    EXPECT_EQ(line[10], 'T') << line;
    messages.push_back(line.substr(blank + 1));
  }
  const std::vector<std::string> once{"done: {} rounds=1", "warning: w", "error: e"};
  std::vector<std::string> twice = once;
  twice.insert(twice.end(), once.begin(), once.end());
  EXPECT_EQ(messages, twice);
}

TEST(Log, FileThatCannotBeOpenedIsAnOutputError) {
  const Scratch scratch("no-such-folder");
  EXPECT_THROW(open_log(scratch.path() / "log.txt"), OutputError);
}

TEST(Hdf5, FailureIsAnOutputErrorWithTheLibrarysReason) {
  h5_quiet();
  const Scratch scratch("absent.h5");
  CaptureStderr();
  try {
    H5Handle file(
        h5_check(H5Fopen(scratch.path().c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), "open absent.h5"),
        H5Fclose);
    FAIL();
  } catch (const OutputError& error) {
    EXPECT_TRUE(contains(error.what(), "cannot open absent.h5: ")) << error.what();
    EXPECT_TRUE(contains(error.what(), "No such file or directory")) << error.what();
  }
  EXPECT_EQ(GetCapturedStderr(), "");
}

std::string content_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(NewFile, TakesItsNameOnceItIsWhole) {
  const Scratch scratch("folder");
  std::filesystem::create_directory(scratch.path());
  const auto path = scratch.path() / "file";
  const auto growing = scratch.path() / "file.tmp";
  write_file(path, "before");
  std::ofstream(growing) << "of a writer that was killed";
  {
    NewFile file(path);
    file.write("given up", 8);
    EXPECT_EQ(content_of(path), "before");
  }
  EXPECT_EQ(content_of(path), "before");
  EXPECT_FALSE(std::filesystem::exists(growing));
  {
    NewFile file(path);
    file.write("af", 2);
    file.write("ter", 3);
    EXPECT_EQ(content_of(path), "before");
    file.put_in_place();
    EXPECT_EQ(content_of(path), "after");
  }
  EXPECT_EQ(content_of(path), "after");
  EXPECT_FALSE(std::filesystem::exists(growing));
  write_file(path, "");
  EXPECT_EQ(content_of(path), "");
}

TEST(NewFile, SaysWhyItCannotBeWritten) {
  const Scratch scratch("absent");
  const auto path = scratch.path() / "file";
  try {
    write_file(path, "x");
    FAIL();
  } catch (const OutputError& error) {
    EXPECT_EQ(error.what(), "cannot write " + path.string() + ": No such file or directory");
  }
}

TEST(Hdf5, HandlesCloseOnceAndMove) {
  h5_quiet();
  const Scratch scratch("handle.h5");
  const auto open_files = [] { return H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_FILE); };
  const ssize_t before = open_files();
  {
    H5Handle first(H5Fcreate(scratch.path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT),
                   H5Fclose);
    H5Handle second(std::move(first));
    EXPECT_FALSE(first);
    EXPECT_TRUE(second);
    H5Handle third;
    third = std::move(second);
    EXPECT_EQ(open_files(), before + 1);
    third.close();
    EXPECT_EQ(open_files(), before);
    EXPECT_NO_THROW(third.close());
  }
  {
    const H5Handle kept(H5Fopen(scratch.path().c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
    EXPECT_EQ(open_files(), before + 1);
  }
  EXPECT_EQ(open_files(), before);
  EXPECT_THROW(H5Handle(H5I_INVALID_HID, H5Fclose), OutputError);
}

TEST(Hdf5, CloseThatFailsThrows) {
  h5_quiet();
  const Scratch scratch("twice.h5");
  H5Handle file(H5Fcreate(scratch.path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT),
                H5Fclose);
  H5Fclose(file.get());
  EXPECT_THROW(file.close(), OutputError);
}

}  // namespace
}  // namespace espalier
