#include "espalier/record/compare.h"

#include <bit>
#include <cmath>
#include <functional>

#include "espalier/base/hdf5.h"
#include "espalier/record/checkpoint.h"
#include "espalier/record/run_file.h"
#include "folder.h"
#include "tables.h"
#include "written_checkpoint.h"

namespace espalier {
namespace {

const TableSchema kMasks{"/method/masks",
                         {{"kept", ColumnType::integer, "1", "units kept"},
                          {"took", ColumnType::real, "s", "host time", true}}};

struct SmallRun {
  std::string config = "[run]\nname = a\ndir = runs\nseed = 1\n\n[train]\nlr = 0.1\n";
  std::function<void(Row&)> round = [](Row&) {};
  std::function<void(Row&)> task = [](Row&) {};
  std::function<void(Row&)> mask = [](Row&) {};
  int tasks = 4;

  void write(const std::filesystem::path& path) const {
    std::vector<const TableSchema*> tables = all_tables();
    tables.push_back(&kMasks);
    RunFile file(path, config, tables);
    Row last_round(rounds_schema());
    last_round.set("round", 1).set("train_loss", 0.5).set("wall_time_s", 1.0);
    round(last_round);
    file.append(last_round);
    for (int i = 0; i < tasks; ++i) {
      Row row(tasks_schema());
      row.set("task", i).set("outcome", "merged").set("peak_bytes", 1024).set("rank", 1);
      if (i == 3) task(row);
      file.append(row);
    }
    Row row(kMasks);
    row.set("kept", 5).set("took", 0.5);
    mask(row);
    file.append(row);
    file.close();
  }
};

class RunDiff : public testing::Test {
 protected:
  std::string diff(const SmallRun& other, DiffScope scope = DiffScope::normal) {
    SmallRun().write(folder_ / "a.h5");
    other.write(folder_ / "b.h5");
    return diff_files(scope);
  }
  std::string diff_files(DiffScope scope = DiffScope::normal) {
    return first_difference(folder_ / "a.h5", folder_ / "b.h5", scope).value_or("none");
  }
  /// Attributes come first, and the files may be a second apart.
  void remove_dates() {
    for (const char* name : {"a.h5", "b.h5"}) {
      const H5Handle file(H5Fopen((folder_ / name).c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose);
      H5Adelete(file, "date");
    }
  }
  /// Changes b.h5 behind the writer's back.
  void spoil(const std::function<void(hid_t)>& body) {
    SmallRun().write(folder_ / "a.h5");
    SmallRun().write(folder_ / "b.h5");
    h5_quiet();
    const H5Handle file(H5Fopen((folder_ / "b.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose);
    body(file);
  }
  Folder folder_;
};

TEST_F(RunDiff, EqualRunsDoNotDiffer) {
  EXPECT_EQ(diff(SmallRun()), "none");
  EXPECT_EQ(diff(SmallRun(), DiffScope::values), "none");
}

TEST_F(RunDiff, NamesAValue) {
  SmallRun other;
  other.task = [](Row& row) { row.set("peak_bytes", 2048); };
  EXPECT_EQ(diff(other), "/tasks/peak_bytes row 3: 1024 against 2048");
  EXPECT_EQ(diff(other, DiffScope::values), "/tasks/peak_bytes row 3: 1024 against 2048");
}

TEST_F(RunDiff, NamesAText) {
  SmallRun other;
  other.task = [](Row& row) { row.set("outcome", "crashed"); };
  EXPECT_EQ(diff(other), "/tasks/outcome row 3: 'merged' against 'crashed'");
}

TEST_F(RunDiff, ValuesAreExact) {
  SmallRun other;
  other.round = [](Row& row) { row.set("train_loss", std::nextafter(0.5, 1.0)); };
  EXPECT_EQ(diff(other), "/rounds/train_loss row 0: 0.5 against 0.5000000000000001");
  other.round = [](Row& row) { row.set("train_loss", std::nan("")); };
  EXPECT_EQ(diff(other), "/rounds/train_loss row 0: 0.5 against nan");
}

TEST_F(RunDiff, NansAreEqualWhateverTheirBits) {
  const auto nan = [](std::uint64_t bits) {
    return [bits](Row& row) { row.set("utilisation", std::bit_cast<double>(bits)); };
  };
  SmallRun a;
  SmallRun b;
  a.round = nan(0x7ff8000000000000);
  b.round = nan(0xfff8000000000001);
  a.write(folder_ / "a.h5");
  b.write(folder_ / "b.h5");
  EXPECT_EQ(diff_files(), "none");
}

TEST_F(RunDiff, NamesMissingRows) {
  SmallRun other;
  other.tasks = 3;
  const std::string found = diff(other);
  EXPECT_NE(found.find("/tasks/"), std::string::npos);
  EXPECT_NE(found.find("has 4 rows against 3"), std::string::npos) << found;
}

TEST_F(RunDiff, WallFieldsCountOnlyWhenAsked) {
  SmallRun other;
  other.round = [](Row& row) { row.set("wall_time_s", 2.0).set("server_busy_s", 3.0); };
  other.task = [](Row& row) { row.set("rank", 2).set("wall_compute_s", 9.0).set("behind_s", 1.0); };
  other.mask = [](Row& row) { row.set("took", 0.75); };
  EXPECT_EQ(diff(other), "none");
  EXPECT_EQ(diff(other, DiffScope::values), "none");
  remove_dates();
  EXPECT_EQ(diff_files(DiffScope::all), "/method/masks/took row 0: 0.5 against 0.75");
  other.mask = [](Row&) {};
  EXPECT_EQ(diff(other), "none");
  remove_dates();
  EXPECT_EQ(diff_files(DiffScope::all), "/rounds/server_busy_s row 0: nan against 3");
}

TEST_F(RunDiff, MethodTablesCountUnlessOnlyValuesAreAsked) {
  SmallRun other;
  other.mask = [](Row& row) { row.set("kept", 6); };
  EXPECT_EQ(diff(other), "/method/masks/kept row 0: 5 against 6");
  EXPECT_EQ(diff(other, DiffScope::values), "none");
}

TEST_F(RunDiff, ConfigCountsButForNamesAndFolders) {
  SmallRun other;
  other.config =
      "# another layout\n[train]\nlr=0.1\n[run]\nseed = 1\nname = b\ndir = elsewhere\n[data]\n"
      "dir = there\n";
  EXPECT_EQ(diff(other), "none");
  other.config = "[run]\nname = a\ndir = runs\nseed = 1\n[train]\nlr = 0.2\n";
  EXPECT_EQ(diff(other), "config train.lr: '0.1' against '0.2'");
  EXPECT_EQ(diff(other, DiffScope::values), "none");
  other.config = "[run]\nname = b\ndir = runs\nseed = 1\n[train]\nlr = 0.1\n";
  EXPECT_EQ(diff(other, DiffScope::all), "config run.name: 'a' against 'b'");
  other.config = "[run]\nseed = 1\n[train]\nlr = 0.1\nclip = 1\n";
  EXPECT_EQ(diff(other), "config train.clip is only in " + (folder_ / "b.h5").string());
}

TEST_F(RunDiff, NamesAMissingColumn) {
  spoil([](hid_t file) { H5Ldelete(file, "/tasks/weight", H5P_DEFAULT); });
  EXPECT_EQ(diff_files(), "/tasks/weight is only in " + (folder_ / "a.h5").string());
}

TEST_F(RunDiff, NamesAnotherType) {
  spoil([](hid_t file) {
    H5Ldelete(file, "/tasks/weight", H5P_DEFAULT);
    const hsize_t four = 4;
    const H5Handle space(H5Screate_simple(1, &four, nullptr), H5Sclose);
    const H5Handle dataset(H5Dcreate2(file, "/tasks/weight", H5T_IEEE_F32LE, space, H5P_DEFAULT,
                                      H5P_DEFAULT, H5P_DEFAULT),
                           H5Dclose);
  });
  EXPECT_EQ(diff_files(), "/tasks/weight has type float64 against float32");
}

TEST_F(RunDiff, NamesAnotherShape) {
  spoil([](hid_t file) {
    H5Ldelete(file, "/tasks/weight", H5P_DEFAULT);
    const hsize_t sizes[] = {2, 2};
    const H5Handle space(H5Screate_simple(2, sizes, nullptr), H5Sclose);
    const H5Handle dataset(H5Dcreate2(file, "/tasks/weight", H5T_IEEE_F64LE, space, H5P_DEFAULT,
                                      H5P_DEFAULT, H5P_DEFAULT),
                           H5Dclose);
  });
  EXPECT_EQ(diff_files(), "/tasks/weight has another shape");
}

TEST_F(RunDiff, NamesAnAttributeUnlessOnlyValuesAreAsked) {
  spoil([](hid_t file) {
    const H5Handle dataset(H5Dopen2(file, "/tasks/weight", H5P_DEFAULT), H5Dclose);
    H5Adelete(dataset, "units");
  });
  EXPECT_EQ(diff_files(),
            "attribute units of /tasks/weight is only in " + (folder_ / "a.h5").string());
  EXPECT_EQ(diff_files(DiffScope::values), "none");
}

TEST_F(RunDiff, ARowThatAKillLeftHalfWrittenIsNoDifference) {
  spoil([](hid_t file) {
    const H5Handle dataset(H5Dopen2(file, "/tasks/task", H5P_DEFAULT), H5Dclose);
    const hsize_t five = 5;
    H5Dset_extent(dataset, &five);
  });
  EXPECT_EQ(diff_files(), "none");
}

TEST_F(RunDiff, TheDateIsAWallField) {
  spoil([](hid_t file) { H5Adelete(file, "date"); });
  EXPECT_EQ(diff_files(), "none");
  EXPECT_EQ(diff_files(DiffScope::all),
            "attribute date of / is only in " + (folder_ / "a.h5").string());
}

void save(const std::filesystem::path& path, std::vector<float> weights, double wall,
          double state) {
  write_checkpoint(path, "[run]\nname = x\n", [&](Archive& archive) {
    archive.open("model");
    archive.value("weights", std::span<float>(weights));
    archive.close();
    archive.open("wall");
    archive.value("time_s", wall);
    archive.close();
    archive.open("method");
    archive.value("state", state);
    archive.close();
  });
}

/// With state of the server, of which a rule's is its own.
void save_server(const std::filesystem::path& path, double moments, double rule) {
  write_checkpoint(path, "[run]\nname = x\n", [&](Archive& archive) {
    archive.open("server");
    archive.open("states");
    archive.value("moments", moments);
    archive.close();
    archive.open("merge_rule");
    archive.value("velocity", rule);
    archive.close();
    archive.close();
  });
}

TEST(CheckpointDiff, ValuesAreThoseOfTheServerTooButNotOfItsRules) {
  const Folder folder;
  const auto diff = [&] {
    return first_difference(folder / "a.h5", folder / "b.h5", DiffScope::values).value_or("none");
  };
  save_server(folder / "a.h5", 3, 5);
  save_server(folder / "b.h5", 3, 7);
  EXPECT_EQ(diff(), "none");
  save_server(folder / "b.h5", 4, 5);
  EXPECT_EQ(diff(), "/server/states/moments: 3 against 4");
}

TEST(CheckpointDiff, FollowsTheScopes) {
  const Folder folder;
  const auto diff = [&](DiffScope scope) {
    return first_difference(folder / "a.h5", folder / "b.h5", scope).value_or("none");
  };
  save(folder / "a.h5", {1, 2, 3}, 1, 1);
  save(folder / "b.h5", {1, 2, 3}, 2, 1);
  EXPECT_EQ(diff(DiffScope::normal), "none");
  EXPECT_EQ(diff(DiffScope::all), "/wall/time_s: 1 against 2");
  save(folder / "b.h5", {1, 2, 3}, 1, 4);
  EXPECT_EQ(diff(DiffScope::normal), "/method/state: 1 against 4");
  EXPECT_EQ(diff(DiffScope::values), "none");
  save(folder / "b.h5", {1, 2.5f, 3}, 1, 1);
  EXPECT_EQ(diff(DiffScope::values), "/model/weights value 1: 2 against 2.5");
  save(folder / "b.h5", {1, 2}, 1, 1);
  EXPECT_EQ(diff(DiffScope::values), "/model/weights has 3 values against 2");
  save(folder / "a.h5", {0.0f}, 1, 1);
  save(folder / "b.h5", {-0.0f}, 1, 1);
  EXPECT_EQ(diff(DiffScope::normal), "/model/weights: 0 against -0");
}

TEST(Diff, RefusesOtherFilesAndTellsKindsApart) {
  const Folder folder;
  SmallRun().write(folder / "run.h5");
  save(folder / "checkpoint.h5", {1}, 1, 1);
  write_bytes(folder / "text", "not HDF5");
  EXPECT_NE(first_difference(folder / "run.h5", folder / "checkpoint.h5", DiffScope::normal)
                .value_or("none")
                .find("espalier checkpoint"),
            std::string::npos);
  const auto message_for = [&](const std::string& name) {
    return output_error(
        [&] { first_difference(folder / "run.h5", folder / name, DiffScope::normal); });
  };
  EXPECT_NE(message_for("none.h5").find("none.h5"), std::string::npos);
  EXPECT_NE(message_for("text").find("text"), std::string::npos);
  EXPECT_NE(message_for(".").find("is a folder; name a file, as "), std::string::npos)
      << message_for(".");
}

TEST(Describe, NamesKindTablesAndRows) {
  const Folder folder;
  SmallRun().write(folder / "run.h5");
  const std::string run = describe_file(folder / "run.h5");
  for (const char* part : {"espalier run, format 1.0", "/tasks          4 rows, 7 columns",
                           "/method/masks   1 row, 2 columns", "last round      round 1"})
    EXPECT_NE(run.find(part), std::string::npos) << part << "\n" << run;
  save(folder / "checkpoint.h5", {1, 2}, 1, 1);
  const std::string checkpoint = describe_file(folder / "checkpoint.h5");
  for (const char* part : {"espalier checkpoint", "complete        yes",
                           "/model            0.000008 MB in   1 dataset   global model"})
    EXPECT_NE(checkpoint.find(part), std::string::npos) << part << "\n" << checkpoint;
}

TEST_F(RunDiff, ExtentsBeyondTheFileAreRefusedBeforeAnythingIsRead) {
  for (const hsize_t rows : {hsize_t{50'000'000}, hsize_t{1} << 44, (hsize_t{1} << 62) + 5}) {
    SmallRun().write(folder_ / "a.h5");
    SmallRun().write(folder_ / "b.h5");
    {
      h5_quiet();
      const H5Handle file(H5Fopen((folder_ / "b.h5").c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose);
      const H5Handle column(H5Dopen2(file, "/rounds/bytes_up", H5P_DEFAULT), H5Dclose);
      h5_check(H5Dset_extent(column, &rows), "lengthen");
    }
    // HDF5 refuses some by itself.
    const std::string expected =
        rows < hsize_t{1} << 40 ? "b.h5 is damaged: /rounds/bytes_up announces more values than the"
                                : "b.h5 is damaged: ";
    for (const std::string& said : {output_error([&] { diff_files(); }),
                                    output_error([&] { describe_file(folder_ / "b.h5"); })}) {
      EXPECT_NE(said.find(expected), std::string::npos) << said;
      EXPECT_EQ(said.find("memory"), std::string::npos) << said;
    }
  }
}

}  // namespace
}  // namespace espalier
