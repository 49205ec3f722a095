#pragma once
// run.h5: one group per table, one dataset per column with an unlimited first dimension, plain
// format, no file locking, so that it can be read while the run goes on. Rows are buffered and
// written by flush(). A run that makes checkpoints also writes its rows into a journal, a file that
// only grows, from which run.h5 is made again after a kill: a kill may damage an HDF5 file.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/record/table.h"

namespace espalier {

/// A place in a journal: the rows before it, by their length in bytes and their checksum.
struct RecordsMark {
  std::int64_t bytes = 0;
  std::int64_t checksum = 0;
};
void archive_mark(Archive& archive, RecordsMark& mark);
/// OutputError if the journal does not hold the rows before the mark.
void check_records(const std::filesystem::path& journal, RecordsMark mark);

/// Once a call has thrown OutputError, every later one throws that same first error: after a full
/// disk, HDF5's later calls may well succeed although rows are lost.
class RunFile {
 public:
  /// Creates the file with these tables and the root attributes (filetype "espalier run", version
  /// [1, 0], software, software_version, git_sha, date, config), and its journal if that has a
  /// path. OutputError if it cannot.
  RunFile(const std::filesystem::path& path, const std::string& config_text,
          const std::vector<const TableSchema*>& tables, const std::filesystem::path& journal = {});
  /// Opens an existing run file to append to it; columns are first cut to the shortest of their
  /// table, which drops a row that a kill left half-written; `config_text` replaces the stored one.
  /// A journal is begun with the rows of the file. OutputError where it cannot.
  static RunFile reopen(const std::filesystem::path& path, const std::string& config_text,
                        const std::vector<const TableSchema*>& tables,
                        const std::filesystem::path& journal = {});
  /// Makes the file again from the rows of its journal before `mark`, and cuts the journal there.
  /// OutputError if the journal does not hold them, or holds other tables.
  static RunFile rebuild(const std::filesystem::path& path, const std::string& config_text,
                         const std::vector<const TableSchema*>& tables,
                         const std::filesystem::path& journal, RecordsMark mark);
  RunFile(RunFile&&) noexcept;
  RunFile& operator=(RunFile&&) noexcept;
  ~RunFile();  // closes; never throws
  /// `row`'s table must be one of the file's.
  void append(const Row& row);
  /// Rows of a table, buffered ones included.
  std::int64_t rows(const std::string& table) const;
  /// Writes buffered rows and flushes the file, unless `not_before_s` seconds have not passed since
  /// the last.
  void flush(double not_before_s = 0);
  /// Brings all rows so far into the journal, and returns its end.
  RecordsMark mark();
  /// Waits until the journal is on the disk. Any thread may call it.
  void sync_journal() const;
  /// Writes what is buffered, flushes, closes and adds a checksum (seal.h); nothing may be appended
  /// after it.
  void close();

 private:
  struct State;
  explicit RunFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace espalier
