#pragma once
// run.h5: one group per table, one dataset per column with an unlimited first dimension, plain
// format, no file locking, so that it can be read while the run goes on. Rows are buffered and
// written by flush().

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/record/table.h"

namespace espalier {

/// Once a call has thrown OutputError, every later one throws that same first error: after a full
/// disk, HDF5's later calls may well succeed although rows are lost.
class RunFile {
 public:
  /// Creates the file with these tables and the root attributes (filetype "espalier run", version
  /// [1, 0], software, software_version, git_sha, date, config). OutputError if it cannot.
  RunFile(const std::filesystem::path& path, const std::string& config_text,
          const std::vector<const TableSchema*>& tables);
  /// Opens an existing run file to append to it; columns are first cut to the shortest of their
  /// table, which drops a row that a kill left half-written; `config_text` replaces the stored one.
  /// OutputError where it cannot.
  static RunFile reopen(const std::filesystem::path& path, const std::string& config_text,
                        const std::vector<const TableSchema*>& tables);
  RunFile(RunFile&&) noexcept;
  RunFile& operator=(RunFile&&) noexcept;
  ~RunFile();  // closes; never throws
  /// Further tables of a method, below /method ("/method/masks"); opened if the file already has
  /// them.
  void add_table(const TableSchema& schema);
  /// `row`'s table must be one of the file's.
  void append(const Row& row);
  /// Rows of a table, buffered ones included.
  std::int64_t rows(const std::string& table) const;
  /// Writes buffered rows and flushes the file, unless `not_before_s` seconds have not passed since
  /// the last.
  void flush(double not_before_s = 0);
  /// The file's bytes, all rows so far included.
  Bytes image();
  /// Writes what is buffered, flushes, closes and adds a checksum (seal.h); nothing may be appended
  /// after it.
  void close();

 private:
  struct State;
  explicit RunFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace espalier
