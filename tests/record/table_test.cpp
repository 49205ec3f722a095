#include "espalier/record/table.h"

#include <gtest/gtest.h>

#include <cmath>

#include "espalier/base/error.h"
#include "tables.h"

namespace espalier {
namespace {

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
