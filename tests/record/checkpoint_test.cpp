#include "espalier/record/checkpoint.h"

#include <sys/resource.h>

#include <array>
#include <cmath>
#include <csignal>
#include <cstring>
#include <limits>

#include "espalier/record/compare.h"
#include "espalier/record/run_file.h"
#include "folder.h"
#include "written_checkpoint.h"

namespace espalier {
namespace {

struct Everything {
  std::int64_t integer = 0;
  double real = 0;
  std::string text;
  std::string empty_text = "x";
  std::vector<std::int64_t> integers;
  std::vector<double> reals;
  Bytes bytes;
  std::vector<double> nothing = {1};
  std::vector<float> weights = std::vector<float>(1000);

  void archive(Archive& archive) {
    archive.value("integer", integer);
    archive.open("inner");
    archive.value("real", real);
    archive.open("deeper");
    archive.value("text", text);
    archive.value("empty_text", empty_text);
    archive.close();
    archive.value("integers", integers);
    archive.close();
    archive.value("reals", reals);
    archive.value("bytes", bytes);
    archive.value("nothing", nothing);
    archive.open("model");
    archive.value("weights", std::span<float>(weights));
    archive.close();
  }
};

// Every value is one whose bytes stand nowhere else in the file, so that a test can find and spoil
// it.
Everything sample() {
  Everything e;
  e.integer = 0x0123456789abcdef;
  e.real = 0.1234567890123;
  e.text = "a text that is checked";
  e.empty_text = "";
  e.integers = {std::numeric_limits<std::int64_t>::min(), 0x1122334455667788, 0};
  e.reals = {-0.0, 1e-310, 3.14159265358979, std::nan("")};
  for (int i = 0; i < 240; ++i) e.bytes.push_back(static_cast<std::byte>(i * 31 % 251));
  e.nothing = {};
  for (std::size_t i = 0; i < e.weights.size(); ++i) e.weights[i] = 1.0f / (3.0f + i);
  return e;
}

void save(const std::filesystem::path& path, Everything& e) {
  write_checkpoint(path, "[run]\nname = kept\n", [&](Archive& archive) { e.archive(archive); });
}

template <class T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

TEST(Checkpoint, BringsBackEveryTypeBitForBit) {
  const Folder folder;
  Everything saved = sample();
  save(folder / "a.h5", saved);
  CheckpointReader reader(folder / "a.h5");
  EXPECT_EQ(reader.config_text(), "[run]\nname = kept\n");
  Everything loaded;
  reader.read([&](Archive& archive) {
    EXPECT_TRUE(archive.loading());
    loaded.archive(archive);
  });
  EXPECT_EQ(loaded.integer, saved.integer);
  EXPECT_EQ(loaded.real, saved.real);
  EXPECT_EQ(loaded.text, saved.text);
  EXPECT_EQ(loaded.empty_text, "");
  EXPECT_EQ(loaded.integers, saved.integers);
  ASSERT_EQ(loaded.reals.size(), saved.reals.size());
  EXPECT_EQ(std::memcmp(loaded.reals.data(), saved.reals.data(), 8 * saved.reals.size()), 0);
  EXPECT_EQ(loaded.bytes, saved.bytes);
  EXPECT_TRUE(loaded.nothing.empty());
  EXPECT_EQ(loaded.weights, saved.weights);
  EXPECT_FALSE(std::filesystem::exists(folder / "a.h5.tmp"));
}

// Arrays beyond a page, of lengths that end within one, and more of them than are copied.
struct Large {
  std::vector<std::vector<float>> arrays;
  Bytes bytes;
  std::int64_t last = 0;

  void archive(Archive& archive) {
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      archive.open(std::to_string(i).c_str());
      archive.value("values", std::span<float>(arrays[i]));
      archive.close();
    }
    archive.value("bytes", bytes);
    archive.value("last", last);
  }
};

TEST(Checkpoint, BringsBackLargeArrays) {
  const Folder folder;
  Large saved;
  std::uint32_t draw = 1;
  for (const std::size_t count : {16383, 16385, 20000, 9000001, 9000002, 17, 70001}) {
    std::vector<float>& values = saved.arrays.emplace_back(count);
    for (float& value : values) value = static_cast<float>(draw = draw * 1664525u + 1013904223u);
  }
  saved.bytes.resize(100003, std::byte{7});
  saved.last = 11;
  write_checkpoint(folder / "a.h5", "", [&](Archive& archive) { saved.archive(archive); });
  Large loaded;
  for (const auto& values : saved.arrays) loaded.arrays.emplace_back(values.size());
  CheckpointReader(folder / "a.h5").read([&](Archive& archive) { loaded.archive(archive); });
  EXPECT_EQ(loaded.arrays, saved.arrays);
  EXPECT_EQ(loaded.bytes, saved.bytes);
  EXPECT_EQ(loaded.last, 11);
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * std::int64_t{1024};
}

TEST(Checkpoint, IsNeverWholeInMemory) {
  const Folder folder;
  std::vector<float> values(80'000'000);
  for (std::size_t i = 0; i < values.size(); i += 64) values[i] = static_cast<float>(i);
  const std::int64_t before = peak_memory_bytes();
  write_checkpoint(folder / "a.h5", "", [&](Archive& archive) {
    for (const char* name : {"a", "b", "c"}) archive.value(name, std::span<float>(values));
  });
  // One array has 320 MB. What may be copied is 64 MB.
  EXPECT_LT(peak_memory_bytes() - before, 100'000'000);
  EXPECT_NO_THROW(CheckpointReader(folder / "a.h5"));
}

// Of a model of three layers: what each value costs beside its bytes.
TEST(Checkpoint, IsHardlyLargerThanItsValues) {
  const Folder folder;
  std::int64_t number = 3;
  std::vector<float> weights(900);
  write_checkpoint(folder / "a.h5", "", [&](Archive& archive) {
    for (int group = 0; group < 10; ++group) {
      archive.open(std::to_string(group).c_str());
      for (const char* name : {"one", "two", "three", "four"}) archive.value(name, number);
      archive.value("weights", std::span<float>(weights));
      archive.close();
    }
  });
  EXPECT_LT(std::filesystem::file_size(folder / "a.h5"), 10 * 900 * 4 + 60 * 200 + 4096);
}

TEST(Checkpoint, TellsWhatItHolds) {
  const Folder folder;
  Everything saved = sample();
  save(folder / "a.h5", saved);
  const CheckpointReader reader(folder / "a.h5");
  EXPECT_TRUE(reader.holds("integer"));
  EXPECT_TRUE(reader.holds("inner"));
  EXPECT_FALSE(reader.holds("outer"));
}

// Such a fault is the program's, not the disk's.
TEST(Checkpoint, TakesEachNameOncePerGroup) {
  const Folder folder;
  std::int64_t number = 3;
  std::vector<float> weights(5);
  const auto refuse = [&](const std::string& name, const std::function<void(Archive&)>& content) {
    try {
      write_checkpoint(folder / "a.h5", "[run]\n", content);
      ADD_FAILURE() << name << " was saved twice";
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::internal) << error.what();
      EXPECT_NE(std::string(error.what()).find(name + " is saved twice"), std::string::npos)
          << error.what();
    }
  };
  refuse("/steps", [&](Archive& archive) {
    archive.value("steps", number);
    archive.value("steps", number);
  });
  refuse("/rule/memory", [&](Archive& archive) {
    archive.value("memory", number);
    archive.open("rule");
    archive.value("memory", number);
    archive.value("memory", std::span<float>(weights));
    archive.close();
  });
  refuse("/queue", [&](Archive& archive) {
    archive.open("queue");
    archive.close();
    archive.open("queue");
    archive.close();
  });
  refuse("/window", [&](Archive& archive) {
    archive.value("window", number);
    archive.open("window");
    archive.close();
  });
  EXPECT_NO_THROW(write_checkpoint(folder / "a.h5", "[run]\n", [&](Archive& archive) {
    for (const char* group : {"a", "b"}) {
      archive.open(group);
      archive.value("a", number);
      archive.close();
    }
  }));
}

TEST(Checkpoint, RefusesAFileWithOneChangedByteAnywhere) {
  const Folder folder;
  Everything saved = sample();
  save(folder / "a.h5", saved);
  const std::string good = read_bytes(folder / "a.h5");
  const auto refused = [&](std::size_t at) {
    std::string bad = good;
    bad[at] ^= 1;
    write_bytes(folder / "bad.h5", bad);
    const std::string message = output_error([&] { CheckpointReader(folder / "bad.h5"); });
    EXPECT_NE(message.find("damaged"), std::string::npos) << message;
    EXPECT_NE(message.find((folder / "bad.h5").string()), std::string::npos) << message;
  };
  for (const std::string& pattern :
       {bytes_of(saved.integer), bytes_of(saved.real), saved.text, bytes_of(saved.integers[1]),
        bytes_of(saved.reals[2]), bytes_of(saved.weights[777]), std::string("name = kept")}) {
    const auto at = good.find(pattern);
    ASSERT_NE(at, std::string::npos);
    refused(at);
  }
  // HDF5's own structures, and the seal at the end.
  for (std::size_t at = 0; at < good.size(); at += 97) refused(at);
  for (std::size_t at = good.size() - 24; at < good.size(); ++at) refused(at);
}

TEST(Checkpoint, RefusesATruncatedFile) {
  const Folder folder;
  Everything saved = sample();
  save(folder / "a.h5", saved);
  const std::string good = read_bytes(folder / "a.h5");
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{100}, good.size() / 2, good.size() - 1}) {
    write_bytes(folder / "bad.h5", good.substr(0, size));
    const std::string message = output_error([&] { CheckpointReader(folder / "bad.h5"); });
    EXPECT_NE(message.find((folder / "bad.h5").string()), std::string::npos) << message;
  }
}

TEST(Checkpoint, RefusesOtherFiles) {
  const Folder folder;
  EXPECT_NE(output_error([&] { CheckpointReader(folder / "none.h5"); }).find("there is no"),
            std::string::npos);
  RunFile(folder / "run.h5", "", {}).close();
  EXPECT_NE(output_error([&] { CheckpointReader(folder / "run.h5"); }).find("espalier run"),
            std::string::npos);
}

TEST(Checkpoint, AnInterruptedWriteLeavesThePreviousFile) {
  const Folder folder;
  Everything saved = sample();
  save(folder / "a.h5", saved);
  const std::string before = read_bytes(folder / "a.h5");
  saved.integer = 5;
  EXPECT_THROW(write_checkpoint(folder / "a.h5", "",
                                [&](Archive& archive) {
                                  archive.value("integer", saved.integer);
                                  throw NoClientError("interrupted");
                                }),
               NoClientError);
  EXPECT_EQ(read_bytes(folder / "a.h5"), before);
  EXPECT_FALSE(std::filesystem::exists(folder / "a.h5.tmp"));

  // What a killed process leaves behind does not disturb the next write.
  write_bytes(folder / "a.h5.tmp", before.substr(0, 1000));
  save(folder / "a.h5", saved);
  Everything loaded;
  CheckpointReader(folder / "a.h5").read([&](Archive& archive) { loaded.archive(archive); });
  EXPECT_EQ(loaded.integer, 5);
}

TEST(Checkpoint, AFullDiskLeavesThePreviousFileAndALaterWriteSucceeds) {
  const Folder folder;
  Everything saved = sample();
  save(folder / "a.h5", saved);
  const std::string before = read_bytes(folder / "a.h5");
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  for (const std::size_t room : {std::size_t{0}, std::size_t{3000}, before.size() - 1}) {
    rlimit full = limit;
    full.rlim_cur = room;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
    const std::string message = output_error([&] { save(folder / "a.h5", saved); });
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    EXPECT_NE(message.find((folder / "a.h5").string()), std::string::npos) << message;
    EXPECT_EQ(read_bytes(folder / "a.h5"), before);
    EXPECT_FALSE(std::filesystem::exists(folder / "a.h5.tmp"));
  }
  std::signal(SIGXFSZ, old_handler);
  save(folder / "a.h5", saved);
  EXPECT_NO_THROW(CheckpointReader(folder / "a.h5"));
}

TEST(Checkpoint, NamesThePathItCannotWrite) {
  const Folder folder;
  write_bytes(folder / "file", "x");
  Everything saved = sample();
  const std::string message = output_error([&] { save(folder / "file" / "a.h5", saved); });
  EXPECT_NE(message.find((folder / "file" / "a.h5").string()), std::string::npos) << message;
}

TEST(Checkpoint, ASecondWriteOfTheSameValuesShowsNoDifference) {
  const Folder folder;
  Everything saved = sample();
  save(folder / "a.h5", saved);
  save(folder / "b.h5", saved);
  EXPECT_EQ(first_difference(folder / "a.h5", folder / "b.h5", DiffScope::all), std::nullopt);
}

TEST(Checkpoint, LoadingAskForWhatIsNotThereNamesIt) {
  const Folder folder;
  Everything saved = sample();
  save(folder / "a.h5", saved);
  CheckpointReader reader(folder / "a.h5");
  const auto error_of = [&](const std::function<void(Archive&)>& content) {
    return output_error([&] { reader.read(content); });
  };
  std::int64_t integer = 0;
  double real = 0;
  std::vector<float> weights(999);
  EXPECT_NE(error_of([&](Archive& a) { a.value("absent", integer); }).find("/absent"),
            std::string::npos);
  EXPECT_NE(error_of([&](Archive& a) { a.value("integer", real); }).find("/integer"),
            std::string::npos);
  EXPECT_NE(error_of([&](Archive& a) { a.open("absent"); }).find("/absent"), std::string::npos);
  EXPECT_NE(error_of([&](Archive& a) {
              a.open("model");
              a.value("weights", std::span<float>(weights));
            }).find("1000 values where 999"),
            std::string::npos);
}

}  // namespace
}  // namespace espalier
