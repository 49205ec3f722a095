#include "espalier/record/table.h"

#include <algorithm>

#include "espalier/base/error.h"

namespace espalier {

Row::Row(const TableSchema& schema) : schema_(&schema) {
  values_.reserve(schema.columns.size());
  for (const Column& column : schema.columns) {
    switch (column.type) {
      case ColumnType::integer:
        values_.emplace_back(std::int64_t{0});
        break;
      case ColumnType::real:
        values_.emplace_back(std::numeric_limits<double>::quiet_NaN());
        break;
      case ColumnType::text:
        values_.emplace_back(std::string());
        break;
    }
  }
}

Row& Row::set(const std::string& column, std::int64_t value) {
  Value& place = values_[index(column)];
  if (auto* real = std::get_if<double>(&place)) {
    *real = static_cast<double>(value);
    return *this;
  }
  ESPALIER_CHECK(std::holds_alternative<std::int64_t>(place), "column {} of {} is a text", column,
                 schema_->path);
  place = value;
  return *this;
}

Row& Row::set(const std::string& column, double value) {
  Value& place = values_[index(column)];
  ESPALIER_CHECK(std::holds_alternative<double>(place), "column {} of {} is not real", column,
                 schema_->path);
  place = value;
  return *this;
}

Row& Row::set(const std::string& column, const std::string& value) {
  Value& place = values_[index(column)];
  ESPALIER_CHECK(std::holds_alternative<std::string>(place), "column {} of {} is not a text",
                 column, schema_->path);
  std::size_t size = std::min(value.size(), kTextBytes);
  const auto continues = [&](std::size_t at) {
    return (static_cast<unsigned char>(value[at]) & 0xC0) == 0x80;
  };
  while (size < value.size() && size > 0 && continues(size)) --size;
  place = value.substr(0, size);
  return *this;
}

std::size_t Row::index(const std::string& column) const {
  const auto& columns = schema_->columns;
  const auto it = std::find_if(columns.begin(), columns.end(),
                               [&](const Column& candidate) { return candidate.name == column; });
  ESPALIER_CHECK(it != columns.end(), "{} has no column {}", schema_->path, column);
  return static_cast<std::size_t>(it - columns.begin());
}

}  // namespace espalier
