#include "csv_file.h"

#include "espalier/base/error.h"
#include "files.h"

namespace espalier {

CsvFile::CsvFile(const std::filesystem::path& path, char separator)
    : path_(path),
      separator_(separator),
      content_(read_packed(path)),
      position_(mark_of_utf8(content_, path)) {}

std::string CsvFile::place() const { return formatted("{} line {}", path_.string(), record_); }

char CsvFile::take() {
  const char c = static_cast<char>(content_[position_++]);
  // In a later message, a NUL byte would end the message.
  if (c == '\0') {
    throw DataError(formatted("{}: a NUL byte, which is not text; correct the file", place()));
  }
  // In CR LF, the LF ends the line.
  if (c == '\n' || (c == '\r' && (at_end() || content_[position_] != '\n'))) ++line_;
  return c;
}

void CsvFile::quoted_cell(std::string& cell) {
  take();  // the opening quote
  while (true) {
    if (at_end()) {
      throw DataError(
          formatted("{}: a cell's opening quote is never closed; correct the file", place()));
    }
    const char c = take();
    if (c != '"') {
      cell += c;
    } else if (!at_end() && content_[position_] == '"') {
      cell += take();
    } else {
      return;
    }
  }
}

bool CsvFile::next(std::vector<std::string>& cells) {
  cells.clear();
  const auto here = [this] { return at_end() ? '\n' : static_cast<char>(content_[position_]); };
  const auto at_line_end = [&] { return here() == '\n' || here() == '\r'; };
  while (!at_end() && at_line_end()) take();
  if (at_end()) return false;
  record_ = line_;
  while (true) {
    std::string& cell = cells.emplace_back();
    if (here() == '"') {
      quoted_cell(cell);
      if (here() != separator_ && !at_line_end()) {
        throw DataError(
            formatted("{}: a quoted cell is followed by '{}' instead of a '{}'; correct the file",
                      place(), here(), separator_));
      }
    }
    while (here() != separator_ && !at_line_end()) cell += take();
    if (here() != separator_) return true;  // the next call skips the line's end
    take();
  }
}

}  // namespace espalier
