#pragma once
// Reads comma-separated values (RFC 4180), or values with another separator: cells in quotes may
// hold separators, line ends, and "" for a quote. Blank lines are skipped. Lines end in LF, CR LF
// or CR.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace espalier {

class CsvFile {
 public:
  /// Gzipped or not. DataError if it cannot be read, or is text in UTF-16.
  explicit CsvFile(const std::filesystem::path& path, char separator = ',');
  /// The cells of the next record; false at the end. DataError (file, line) for quotes that are not
  /// closed or are followed by other characters, and for NUL bytes.
  bool next(std::vector<std::string>& cells);
  /// "FILE line N" of the last record, for messages.
  std::string place() const;

 private:
  bool at_end() const { return position_ == content_.size(); }
  /// Skips one character, and counts lines.
  char take();
  void quoted_cell(std::string& cell);

  std::filesystem::path path_;
  char separator_;
  std::vector<std::uint8_t> content_;
  std::size_t position_ = 0;
  std::int64_t line_ = 1;    // at position_
  std::int64_t record_ = 0;  // line at which the last record begins
};

}  // namespace espalier
