#include "espalier/record/table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "espalier/base/error.h"

namespace espalier {
namespace {

std::string names(const TableSchema& schema) {
  std::string text;
  for (const Column& column : schema.columns) text += (text.empty() ? "" : " ") + column.name;
  return text;
}

// Users' scripts rely on these.
TEST(Schema, NamesAreThoseOfTheInterface) {
  EXPECT_EQ(
      names(rounds_schema()),
      "round version virtual_time_s wall_time_s updates_merged updates_stale updates_dropped "
      "staleness_mean staleness_max coverage_min coverage_mean train_loss bytes_down bytes_up "
      "utilisation server_busy_s checkpoint_s peak_client_bytes");
  EXPECT_EQ(
      names(tasks_schema()),
      "task client base_version merged_version staleness outcome duplicates sent_s finished_s "
      "download_s compute_s upload_s server_s wall_compute_s behind_s bytes_down bytes_up "
      "state_bytes "
      "parameters flops peak_bytes search_peak_bytes cap_bytes asked_bytes samples steps "
      "train_loss local_loss local_top1 weight share "
      "rank");
  EXPECT_EQ(names(evaluations_schema()), "version virtual_time_s set loss top1 top5 perplexity");
  EXPECT_EQ(names(clients_schema()),
            "client device memory_bytes gflops down_mbps up_mbps latency_ms samples");
  EXPECT_EQ(rounds_schema().path, "/rounds");
  EXPECT_EQ(tasks_schema().path, "/tasks");
  EXPECT_EQ(evaluations_schema().path, "/evaluations");
  EXPECT_EQ(clients_schema().path, "/clients");
}

TEST(Schema, WallFieldsAreThoseOfTheInterface) {
  std::set<std::string> wall;
  for (const TableSchema* schema :
       {&rounds_schema(), &tasks_schema(), &evaluations_schema(), &clients_schema()})
    for (const Column& column : schema->columns)
      if (column.wall) wall.insert(schema->path + "/" + column.name);
  EXPECT_EQ(wall, (std::set<std::string>{"/rounds/wall_time_s", "/rounds/server_busy_s",
                                         "/rounds/checkpoint_s", "/tasks/wall_compute_s",
                                         "/tasks/behind_s", "/tasks/rank"}));
}

TEST(Schema, EveryColumnIsDescribedAndSecondsAreNamedSo) {
  for (const TableSchema* schema :
       {&rounds_schema(), &tasks_schema(), &evaluations_schema(), &clients_schema()})
    for (const Column& column : schema->columns) {
      EXPECT_FALSE(column.description.empty()) << column.name;
      EXPECT_EQ(column.unit.empty(), column.type == ColumnType::text) << column.name;
      EXPECT_EQ(column.name.ends_with("_s"), column.unit == "s") << column.name;
      EXPECT_EQ(column.name.find("bytes") != std::string::npos, column.unit == "B") << column.name;
    }
}

TEST(Row, StartsEmptyAndTakesValuesByName) {
  Row row(evaluations_schema());
  EXPECT_EQ(std::get<std::int64_t>(row.values()[0]), 0);
  EXPECT_TRUE(std::isnan(std::get<double>(row.values()[3])));
  EXPECT_EQ(std::get<std::string>(row.values()[2]), "");
  row.set("version", std::int64_t{7}).set("set", "test").set("loss", 0.25).set("top1", 1);
  EXPECT_EQ(std::get<std::int64_t>(row.values()[0]), 7);
  EXPECT_EQ(std::get<std::string>(row.values()[2]), "test");
  EXPECT_EQ(std::get<double>(row.values()[3]), 0.25);
  EXPECT_EQ(std::get<double>(row.values()[4]), 1.0);
}

TEST(Row, RefusesUnknownColumnsAndOtherTypes) {
  Row row(evaluations_schema());
  EXPECT_THROW(row.set("top2", 0.5), Error);
  EXPECT_THROW(row.set("version", 0.5), Error);
  EXPECT_THROW(row.set("set", 0.5), Error);
  EXPECT_THROW(row.set("loss", std::string("low")), Error);
}

TEST(Row, CutsTextsAtAWholeCharacter) {
  Row row(clients_schema());
  row.set("device", std::string(23, 'a') + "\u00e9");  // two bytes: 23 + 2 > 24
  EXPECT_EQ(std::get<std::string>(row.values()[1]), std::string(23, 'a'));
  row.set("device", std::string(22, 'a') + "\u00e9");
  EXPECT_EQ(std::get<std::string>(row.values()[1]), std::string(22, 'a') + "\u00e9");
}

}  // namespace
}  // namespace espalier
