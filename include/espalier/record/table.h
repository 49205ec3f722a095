#pragma once
// Columns of the run file, declared once with type, unit and description, and rows that are filled
// by name.

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

namespace espalier {

/// int64, float64, or a fixed string of kTextBytes bytes, null padded (outcomes, names of sets and
/// devices).
enum class ColumnType { integer, real, text };
inline constexpr std::size_t kTextBytes = 24;

struct Column {
  std::string name;
  ColumnType type = ColumnType::real;
  std::string unit;
  std::string description;
  bool wall = false;  ///< may differ between equal runs; left out of comparisons
};

struct TableSchema {
  std::string path;  ///< "/rounds"
  std::vector<Column> columns;
};

/// One row: every column starts as 0, NaN or "".
class Row {
 public:
  /// `schema` must outlive the row.
  explicit Row(const TableSchema& schema);
  /// Setting an unknown column or one of another type is a broken invariant; integers may go into
  /// real columns. Texts are cut to kTextBytes, at a whole UTF-8 character.
  Row& set(const std::string& column, std::int64_t value);
  Row& set(const std::string& column, int value) { return set(column, std::int64_t{value}); }
  Row& set(const std::string& column, double value);
  Row& set(const std::string& column, const std::string& value);
  using Value = std::variant<std::int64_t, double, std::string>;
  const std::vector<Value>& values() const { return values_; }
  const TableSchema& schema() const { return *schema_; }

 private:
  std::size_t index(const std::string& column) const;
  const TableSchema* schema_;
  std::vector<Value> values_;
};

}  // namespace espalier
