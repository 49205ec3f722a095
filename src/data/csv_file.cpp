#include "csv_file.h"

#include "espalier/base/error.h"
#include "files.h"

namespace espalier {

CsvFile::CsvFile(const std::filesystem::path& path) : path_(path), content_(read_packed(path)) {
  constexpr std::uint8_t kByteOrderMark[] = {0xef, 0xbb, 0xbf};
  if (content_.size() >= 3 && std::equal(kByteOrderMark, kByteOrderMark + 3, content_.begin())) {
    position_ = 3;
  }
}

std::string CsvFile::place() const { return formatted("{} line {}", path_.string(), record_); }

void CsvFile::quoted_cell(std::string& cell) {
  ++position_;  // the opening quote
  while (true) {
    if (at_end()) {
      throw DataError(
          formatted("{}: a cell's opening quote is never closed; mend the file", place()));
    }
    const char c = static_cast<char>(content_[position_++]);
    if (c == '\n') ++line_;
    if (c != '"') {
      cell += c;
    } else if (!at_end() && content_[position_] == '"') {
      cell += static_cast<char>(content_[position_++]);
    } else {
      return;
    }
  }
}

bool CsvFile::next(std::vector<std::string>& cells) {
  cells.clear();
  const auto here = [this] { return at_end() ? '\n' : static_cast<char>(content_[position_]); };
  while (!at_end() && (here() == '\n' || here() == '\r')) {
    if (here() == '\n') ++line_;
    ++position_;
  }
  if (at_end()) return false;
  record_ = line_;
  while (true) {
    std::string& cell = cells.emplace_back();
    if (here() == '"') {
      quoted_cell(cell);
      if (here() != ',' && here() != '\n' && here() != '\r') {
        throw DataError(
            formatted("{}: a quoted cell is followed by '{}' instead of a comma; mend the file",
                      place(), here()));
      }
    }
    while (here() != ',' && here() != '\n' && here() != '\r') {
      cell += static_cast<char>(content_[position_++]);
    }
    if (here() != ',') return true;  // the line's end is passed over by the next call
    ++position_;
  }
}

}  // namespace espalier
