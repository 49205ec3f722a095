#include "espalier/protocol/rounds/tables.h"

#include <gtest/gtest.h>

#include <set>

#include "espalier/engine/tables.h"
#include "espalier/protocol/rounds/heterogeneity.h"
#include "espalier/record/outcome.h"

namespace espalier::rounds {
namespace {

std::vector<const TableSchema*> all_tables() {
  return with_engine_tables({&rounds_schema(), &tasks_schema(), &fleet_schema()});
}

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
      "staleness_mean staleness_max coverage_min coverage_mean coverage_ever agreement "
      "train_loss bytes_down bytes_up utilisation server_busy_s checkpoint_s peak_client_bytes");
  EXPECT_EQ(
      names(tasks_schema()),
      "task client base_version merged_version staleness outcome duplicates mode link_mode sent_s "
      "finished_s "
      "download_s compute_s upload_s server_s wall_compute_s behind_s bytes_down bytes_up "
      "state_bytes "
      "parameters flops peak_bytes search_peak_bytes cap_bytes asked_bytes samples steps "
      "train_loss local_loss local_top1 weight share "
      "rank");
  EXPECT_EQ(names(evaluations_schema()), "version virtual_time_s set loss top1 top5 perplexity");
  EXPECT_EQ(names(clients_schema()),
            "client device memory_bytes gflops down_mbps up_mbps latency_ms samples");
  EXPECT_EQ(names(fleet_schema()), "shortest_s longest_s sigma heterogeneity");
  EXPECT_EQ(fleet_schema().path, "/method/fleet");
  EXPECT_EQ(rounds_schema().path, "/rounds");
  EXPECT_EQ(tasks_schema().path, "/tasks");
  EXPECT_EQ(evaluations_schema().path, "/evaluations");
  EXPECT_EQ(clients_schema().path, "/clients");
}

TEST(Schema, WallFieldsAreThoseOfTheInterface) {
  std::set<std::string> wall;
  for (const TableSchema* schema : all_tables())
    for (const Column& column : schema->columns)
      if (column.wall) wall.insert(schema->path + "/" + column.name);
  EXPECT_EQ(wall, (std::set<std::string>{"/rounds/wall_time_s", "/rounds/server_busy_s",
                                         "/rounds/checkpoint_s", "/tasks/wall_compute_s",
                                         "/tasks/behind_s", "/tasks/rank"}));
}

TEST(Schema, EveryColumnIsDescribedAndSecondsAreNamedSo) {
  for (const TableSchema* schema : all_tables())
    for (const Column& column : schema->columns) {
      EXPECT_FALSE(column.description.empty()) << column.name;
      EXPECT_EQ(column.unit.empty(), column.type == ColumnType::text) << column.name;
      EXPECT_EQ(column.name.ends_with("_s"), column.unit == "s") << column.name;
      EXPECT_EQ(column.name.find("bytes") != std::string::npos, column.unit == "B") << column.name;
    }
}

TEST(Schema, TheColumnListsEveryOutcome) {
  std::string listed;
  for (const Column& column : tasks_schema().columns) {
    if (column.name == "outcome") listed = column.description;
  }
  for (std::size_t i = 0; i < kOutcomes; ++i) {
    EXPECT_NE(listed.find(name_of(static_cast<Outcome>(i))), std::string::npos) << listed;
  }
}

}  // namespace
}  // namespace espalier::rounds
