#include "espalier/record/run_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "espalier/base/hdf5.h"
#include "espalier/record/compare.h"
#include "folder.h"
#include "tables.h"

namespace espalier {
namespace {

Row round_row(int round) {
  Row row(rounds_schema());
  row.set("round", round).set("version", round).set("virtual_time_s", 1.5 * round);
  return row;
}

Row evaluation_row(int version) {
  Row row(evaluations_schema());
  row.set("version", version).set("set", "test").set("top1", 0.125 * version);
  return row;
}

// Read with plain HDF5 calls, so that nothing of the writer's own code vouches for the format.
H5Handle open_plain(const std::filesystem::path& path, unsigned flags = H5F_ACC_RDONLY) {
  h5_quiet();
  return {h5_check(H5Fopen(path.c_str(), flags, H5P_DEFAULT), "open"), H5Fclose};
}

template <class T>
std::vector<T> column(hid_t file, const char* path, hid_t type) {
  const H5Handle dataset(H5Dopen2(file, path, H5P_DEFAULT), H5Dclose);
  const H5Handle space(H5Dget_space(dataset), H5Sclose);
  std::vector<T> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  h5_check(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), "read");
  return values;
}

std::string text_attribute(hid_t object, const char* name) {
  const H5Handle attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose);
  const H5Handle type(H5Aget_type(attribute), H5Tclose);
  char* text = nullptr;
  h5_check(H5Aread(attribute, type, &text), "read");
  std::string copy = text;
  H5free_memory(text);
  return copy;
}

TEST(RunFile, WritesColumnsThatPlainHdf5Reads) {
  const Folder folder;
  {
    RunFile run(folder / "run.h5", "[run]\nname = a\n", all_tables());
    for (int i = 1; i <= 3; ++i) run.append(round_row(i));
    run.append(evaluation_row(2));
    run.close();
  }
  const H5Handle file = open_plain(folder / "run.h5");
  EXPECT_EQ(column<std::int64_t>(file, "/rounds/round", H5T_NATIVE_INT64),
            (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(column<double>(file, "/rounds/virtual_time_s", H5T_NATIVE_DOUBLE),
            (std::vector<double>{1.5, 3.0, 4.5}));
  EXPECT_EQ(text_attribute(file, "filetype"), "espalier run");
  EXPECT_EQ(text_attribute(file, "config"), "[run]\nname = a\n");
  for (const char* name : {"version", "software", "software_version", "git_sha", "date"})
    EXPECT_GT(H5Aexists(file, name), 0) << name;

  const H5Handle set(H5Dopen2(file, "/evaluations/set", H5P_DEFAULT), H5Dclose);
  const H5Handle type(H5Dget_type(set), H5Tclose);
  EXPECT_EQ(H5Tget_size(type), 24u);
  EXPECT_EQ(H5Tget_strpad(type), H5T_STR_NULLPAD);
  std::string text(24, 'x');
  h5_check(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()), "read");
  EXPECT_EQ(text, "test" + std::string(20, '\0'));
}

TEST(RunFile, EveryColumnCarriesUnitsDescriptionAndWall) {
  const Folder folder;
  RunFile(folder / "run.h5", "", all_tables()).close();
  const H5Handle file = open_plain(folder / "run.h5");
  for (const TableSchema* schema : all_tables())
    for (const Column& c : schema->columns) {
      const H5Handle dataset(H5Dopen2(file, (schema->path + "/" + c.name).c_str(), H5P_DEFAULT),
                             H5Dclose);
      EXPECT_EQ(text_attribute(dataset, "units"), c.unit);
      EXPECT_EQ(text_attribute(dataset, "description"), c.description);
      const H5Handle wall(H5Aopen(dataset, "wall", H5P_DEFAULT), H5Aclose);
      std::int64_t value = -1;
      h5_check(H5Aread(wall, H5T_NATIVE_INT64, &value), "read");
      EXPECT_EQ(value, c.wall ? 1 : 0);
    }
}

TEST(RunFile, RowsCrossChunks) {
  const Folder folder;
  std::vector<std::int64_t> expected;
  {
    RunFile run(folder / "run.h5", "", all_tables());
    for (int i = 0; i < 2500; ++i) {
      run.append(round_row(i));
      expected.push_back(i);
      if (i % 700 == 0) run.flush();
    }
  }
  const H5Handle file = open_plain(folder / "run.h5");
  EXPECT_EQ(column<std::int64_t>(file, "/rounds/version", H5T_NATIVE_INT64), expected);
}

// A copy is what another process would see at that moment.
TEST(RunFile, CanBeReadWhileItIsWritten) {
  const Folder folder;
  RunFile run(folder / "run.h5", "", all_tables());
  for (int i = 1; i <= 4; ++i) {
    run.append(round_row(i));
    run.flush();
    std::filesystem::copy_file(folder / "run.h5", folder / ("copy" + std::to_string(i)));
    const H5Handle file = open_plain(folder / ("copy" + std::to_string(i)));
    EXPECT_EQ(std::ssize(column<std::int64_t>(file, "/rounds/round", H5T_NATIVE_INT64)), i);
  }
  const int descriptor = ::open((folder / "run.h5").c_str(), O_RDONLY);
  EXPECT_EQ(::flock(descriptor, LOCK_EX | LOCK_NB), 0) << "the writer holds a file lock";
  ::close(descriptor);
}

TEST(RunFile, FlushesNoMoreOftenThanAsked) {
  const Folder folder;
  RunFile run(folder / "run.h5", "", all_tables());
  const auto rows_on_disk = [&] {
    std::filesystem::copy_file(folder / "run.h5", folder / "copy",
                               std::filesystem::copy_options::overwrite_existing);
    return column<std::int64_t>(open_plain(folder / "copy"), "/rounds/round", H5T_NATIVE_INT64)
        .size();
  };
  run.append(round_row(1));
  run.flush(3600);
  EXPECT_EQ(rows_on_disk(), 0u);
  EXPECT_EQ(run.rows("/rounds"), 1);
  run.flush();
  EXPECT_EQ(rows_on_disk(), 1u);
}

TEST(RunFile, ReopensAtTheShortestColumnAndGoesOn) {
  const Folder folder;
  {
    RunFile run(folder / "run.h5", "", all_tables());
    for (int i = 1; i <= 3; ++i) run.append(round_row(i));
  }
  {
    const H5Handle file = open_plain(folder / "run.h5", H5F_ACC_RDWR);
    const H5Handle dataset(H5Dopen2(file, "/rounds/bytes_up", H5P_DEFAULT), H5Dclose);
    const hsize_t two = 2;
    h5_check(H5Dset_extent(dataset, &two), "shorten");
  }
  {
    RunFile run = RunFile::reopen(folder / "run.h5", "", all_tables());
    EXPECT_EQ(run.rows("/rounds"), 2);
    run.append(round_row(9));
    run.close();
  }
  const H5Handle file = open_plain(folder / "run.h5");
  EXPECT_EQ(column<std::int64_t>(file, "/rounds/round", H5T_NATIVE_INT64),
            (std::vector<std::int64_t>{1, 2, 9}));
}

// A run file with a journal, and its mark after each of some rounds.
std::vector<RecordsMark> write_rounds(const Folder& folder, int rounds) {
  std::vector<RecordsMark> marks;
  RunFile run(folder / "run.h5", "[run]\n", all_tables(), folder / "journal");
  for (int i = 1; i <= rounds; ++i) {
    run.append(round_row(i));
    if (i % 3 == 2) run.append(evaluation_row(i));
    if (i % 4 == 0) run.flush();
    marks.push_back(run.mark());
  }
  run.close();
  return marks;
}

TEST(RunFile, IsMadeAgainFromItsJournalAsItWasAtAMark) {
  const Folder folder;
  const std::vector<RecordsMark> marks = write_rounds(folder, 9);
  std::filesystem::copy_file(folder / "run.h5", folder / "straight.h5");
  const std::string journal = read_bytes(folder / "journal");
  for (const int kept : {1, 4, 7, 9}) {
    write_bytes(folder / "journal", journal + "half a blo");
    write_bytes(folder / "run.h5", "damaged");
    RunFile run = RunFile::rebuild(folder / "run.h5", "[run]\n", all_tables(), folder / "journal",
                                   marks[static_cast<std::size_t>(kept - 1)]);
    EXPECT_EQ(run.rows("/rounds"), kept);
    EXPECT_EQ(run.rows("/evaluations"), (kept + 1) / 3);
    for (int i = kept + 1; i <= 9; ++i) {
      run.append(round_row(i));
      if (i % 3 == 2) run.append(evaluation_row(i));
    }
    const RecordsMark mark = run.mark();
    run.close();
    EXPECT_EQ(first_difference(folder / "straight.h5", folder / "run.h5", DiffScope::all),
              std::nullopt);
    EXPECT_NO_THROW(check_records(folder / "journal", mark));
    EXPECT_EQ(std::filesystem::file_size(folder / "journal"),
              static_cast<std::uintmax_t>(mark.bytes));
  }
}

TEST(RunFile, WritesEachRowOnceIntoItsJournal) {
  const Folder folder;
  RunFile run(folder / "run.h5", "", all_tables(), folder / "journal");
  const std::int64_t empty = run.mark().bytes;
  constexpr std::int64_t kRounds = 3000;
  for (int i = 0; i < kRounds; ++i) {
    run.append(round_row(i));
    run.mark();
  }
  // Eight columns of eight bytes, and for each block two words before it and a count per table.
  EXPECT_EQ(run.mark().bytes - empty, kRounds * (8 * (8 + 8) + 16 + 4 * 8));
}

TEST(RunFile, RefusesADamagedOrForeignJournal) {
  const Folder folder;
  const std::vector<RecordsMark> marks = write_rounds(folder, 6);
  const std::string good = read_bytes(folder / "journal");
  const auto reason = [&](RecordsMark mark) {
    return output_error([&] { check_records(folder / "journal", mark); });
  };
  const auto at = static_cast<std::size_t>(marks[3].bytes);
  for (std::size_t place = 0; place < good.size(); place += place < at ? 37 : 5) {
    std::string bad = good;
    bad[place] ^= 8;
    write_bytes(folder / "journal", bad);
    if (place < at) {
      EXPECT_NE(reason(marks[3]).find("journal are missing, damaged"), std::string::npos);
    } else {
      EXPECT_NO_THROW(check_records(folder / "journal", marks[3])) << place;
    }
    EXPECT_NE(reason(marks[5]), "");
  }
  write_bytes(folder / "journal", good.substr(0, at - 1));
  EXPECT_NE(reason(marks[3]), "");
  std::filesystem::remove(folder / "journal");
  EXPECT_NE(reason(marks[0]), "");
  write_bytes(folder / "journal", good);
  EXPECT_NE(reason({marks[3].bytes, marks[2].checksum}), "");
}

TEST(RunFile, RefusesAJournalOfOtherColumns) {
  const Folder folder;
  const RecordsMark mark = write_rounds(folder, 2).back();
  const std::vector<const TableSchema*> fewer = {&rounds_schema(), &tasks_schema()};
  const std::string message = output_error(
      [&] { RunFile::rebuild(folder / "run.h5", "", fewer, folder / "journal", mark); });
  EXPECT_NE(message.find("other columns"), std::string::npos) << message;
}

TEST(RunFile, BeginsAJournalWithTheRowsThatItHas) {
  const Folder folder;
  {
    RunFile run(folder / "run.h5", "", all_tables());
    for (int i = 1; i <= 5; ++i) run.append(round_row(i));
    run.append(evaluation_row(4));
  }
  std::filesystem::copy_file(folder / "run.h5", folder / "straight.h5");
  RecordsMark mark;
  {
    RunFile run = RunFile::reopen(folder / "run.h5", "", all_tables(), folder / "journal");
    EXPECT_EQ(run.rows("/rounds"), 5);
    mark = run.mark();
  }
  RunFile::rebuild(folder / "made.h5", "", all_tables(), folder / "journal", mark).close();
  for (const char* name : {"run.h5", "made.h5"}) {
    EXPECT_EQ(first_difference(folder / "straight.h5", folder / name, DiffScope::all),
              std::nullopt);
  }
}

TEST(RunFile, EndsInAChecksumOnceItIsClosed) {
  const Folder folder;
  const auto path = folder / "run.h5";
  const auto is_checked = [&] {
    return describe_file(path).find("the checksum of all bytes is right") != std::string::npos;
  };
  {
    RunFile run(path, "", all_tables());
    for (int i = 1; i <= 3; ++i) run.append(round_row(i));
    run.flush();
    EXPECT_FALSE(is_checked());
    run.close();
  }
  EXPECT_TRUE(is_checked());
  {
    RunFile run = RunFile::reopen(path, "", all_tables());
    EXPECT_FALSE(is_checked());
    run.append(round_row(4));
    run.close();
  }
  EXPECT_TRUE(is_checked());
  EXPECT_EQ(std::ssize(column<std::int64_t>(open_plain(path), "/rounds/round", H5T_NATIVE_INT64)),
            4);

  // A value in a column, of which HDF5 notices nothing.
  const std::string whole = read_bytes(path);
  std::string damaged = whole;
  const double value = 4.5;
  const auto at = damaged.find(std::string(reinterpret_cast<const char*>(&value), sizeof value));
  ASSERT_NE(at, std::string::npos);
  damaged[at + 3] ^= 1;
  write_bytes(path, damaged);
  EXPECT_NE(output_error([&] { describe_file(path); }).find("checksum"), std::string::npos);
  EXPECT_NE(output_error([&] { first_difference(path, path, DiffScope::normal); }).find("run.h5"),
            std::string::npos);

  // Older releases wrote no checksum.
  constexpr std::size_t kSealBytes = 24;
  write_bytes(path, whole.substr(0, whole.size() - kSealBytes));
  EXPECT_FALSE(is_checked());
  // Another program that writes into the file takes the checksum away.
  write_bytes(path, whole);
  {
    const H5Handle file = open_plain(path, H5F_ACC_RDWR);
    h5_check(H5Adelete(file, "date"), "delete");
  }
  EXPECT_FALSE(is_checked());
}

TEST(RunFile, APipeIsNotOpened) {
  const Folder folder;
  ASSERT_EQ(::mkfifo((folder / "run.h5").c_str(), 0600), 0);
  const std::string said = output_error([&] { describe_file(folder / "run.h5"); });
  EXPECT_NE(said.find("run.h5 is a pipe"), std::string::npos) << said;
}

TEST(RunFile, RefusesRowsOfUnknownTables) {
  const Folder folder;
  RunFile run(folder / "run.h5", "", all_tables());
  const TableSchema other{"/method/other", {{"x", ColumnType::real, "1", "x"}}};
  EXPECT_THROW(run.append(Row(other)), Error);
}

// A file in place of the folder stops root as well as anybody else.
TEST(RunFile, NamesThePathItCannotWrite) {
  const Folder folder;
  write_bytes(folder / "file", "x");
  const std::string message =
      output_error([&] { RunFile(folder / "file" / "run.h5", "", all_tables()); });
  EXPECT_NE(message.find((folder / "file" / "run.h5").string()), std::string::npos) << message;
  EXPECT_NE(message.find("run.dir"), std::string::npos) << message;
}

TEST(RunFile, KeepsTheFirstErrorOfAFullDisk) {
  const Folder folder;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  {
    RunFile run(folder / "run.h5", "", all_tables());
    rlimit full = before;
    full.rlim_cur = std::filesystem::file_size(folder / "run.h5");
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &full), 0);
    run.append(round_row(1));
    const std::string first = output_error([&] { run.flush(); });
    EXPECT_NE(first.find((folder / "run.h5").string()), std::string::npos) << first;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_EQ(output_error([&] { run.append(round_row(2)); }), first);
    EXPECT_EQ(output_error([&] { run.flush(); }), first);
    EXPECT_EQ(output_error([&] { run.close(); }), first);
  }
  std::signal(SIGXFSZ, old_handler);
}

[[noreturn]] void exit_on_a_full_disk(const std::filesystem::path& path) {
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    RunFile run(path, "", all_tables());
    const rlimit full{20000, 20000};
    setrlimit(RLIMIT_FSIZE, &full);
    for (int i = 0; i < 5000; ++i) run.append(round_row(i));
    run.flush();
  } catch (const OutputError& error) {
    std::fputs(error.what(), stderr);
    std::exit(static_cast<int>(error.status()));
  }
  std::exit(0);
}

// HDF5's own exit handler would end the process with a signal instead.
TEST(RunFileDeathTest, AProcessOnAFullDiskStillExitsWithItsStatus) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const Folder folder;
  EXPECT_EXIT(exit_on_a_full_disk(folder / "run.h5"), testing::ExitedWithCode(4),
              "run.h5: cannot .*: File too large; make room");
}

}  // namespace
}  // namespace espalier
